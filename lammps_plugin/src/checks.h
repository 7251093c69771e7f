// Which LAMMPS set-ups are refused, and what the server must know of the others.
// All functions are collective: every rank calls them and gets the same answer.
#pragma once

#include "protocol.h"

#include <string>
#include <vector>

namespace LAMMPS_NS {
class Domain;
class Fix;
class LAMMPS;
}    // namespace LAMMPS_NS

namespace forcenet {

// The fix of that id, or null.
LAMMPS_NS::Fix *find_fix(LAMMPS_NS::LAMMPS *lmp, const std::string &id);

// Each returns why LAMMPS must not go on, or "".
std::string refuse_system(LAMMPS_NS::LAMMPS *lmp);
std::string refuse_run(LAMMPS_NS::LAMMPS *lmp, LAMMPS_NS::Fix *external);
std::string refuse_without(LAMMPS_NS::LAMMPS *lmp, const LAMMPS_NS::Fix *external, bool energy,
                           bool virial);

// Whether atoms see images along this axis. In two dimensions the box counts as periodic in z, but
// LAMMPS's own potentials see no images there.
bool repeats(const LAMMPS_NS::Domain *domain, int d);

// What HELLO says of this system.
Settings describe(LAMMPS_NS::LAMMPS *lmp, LAMMPS_NS::Fix *external,
                  const std::vector<std::string> &elements, bool mass_check);

}    // namespace forcenet
