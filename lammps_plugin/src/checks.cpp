#include "checks.h"

#include "atom.h"
#include "compute.h"
#include "domain.h"
#include "fix.h"
#include "group.h"
#include "input.h"
#include "lammps.h"
#include "modify.h"
#include "update.h"

#include <cstring>
#include <initializer_list>

using namespace LAMMPS_NS;

namespace forcenet {

namespace {

// A style of LAMMPS with or without a suffix: "setforce" is also "setforce/kk".
bool is_one_of(const char *style, std::initializer_list<const char *> names)
{
  for (const char *name : names) {
    const std::size_t length = std::strlen(name);
    if (std::strncmp(style, name, length) == 0 && (style[length] == '\0' || style[length] == '/'))
      return true;
  }
  return false;
}

// Act on the force that has been summed before them: a force added afterwards escapes them.
bool replaces_forces(const char *style)
{
  return is_one_of(style, {"setforce", "aveforce", "freeze", "lineforce", "planeforce", "enforce2d",
                           "shake", "rattle"});
}

bool holds_atoms(const char *style)
{
  return is_one_of(style, {"setforce", "aveforce", "freeze", "lineforce", "planeforce", "move",
                           "rigid", "poems", "nve/noforce", "enforce2d"});
}

bool needs_virial(const char *style)
{
  return is_one_of(style, {"npt", "nph", "press", "box/relax", "rigid/npt", "rigid/nph", "nphug",
                           "msst", "qbmsst", "tgnpt", "deform/pressure"});
}

bool needs_energy(const char *style)
{
  return is_one_of(style, {"box/relax", "nphug", "msst", "qbmsst", "neb", "gcmc", "sgcmc", "widom",
                           "atom/swap", "mol/swap", "neighbor/swap", "charge/regulation", "hyper", "grem"});
}

// What a compute needs of the model's part; what it does not get counts as zero there.
enum class Need { nothing, pressure, atom_virials, atom_energies };

Need need(const Compute *compute)
{
  const char *style = compute->style;
  if (is_one_of(style, {"pe/atom", "pe/tally", "pe/mol"})) return Need::atom_energies;
  if (is_one_of(style, {"stress", "centroid/stress", "heat/flux", "pressure/cylinder"}))
    return Need::atom_virials;
  if (is_one_of(style, {"pressure", "born/matrix"})) return Need::pressure;
  return Need::nothing;
}

bigint sum_over_ranks(LAMMPS *lmp, bigint mine)
{
  bigint all = 0;
  MPI_Allreduce(&mine, &all, 1, MPI_LMP_BIGINT, MPI_SUM, lmp->world);
  return all;
}

// How many atoms are in both groups.
bigint count_in_both(LAMMPS *lmp, int one, int other)
{
  bigint mine = 0;
  for (int i = 0; i < lmp->atom->nlocal; ++i)
    if ((lmp->atom->mask[i] & one) && (lmp->atom->mask[i] & other)) ++mine;
  return sum_over_ranks(lmp, mine);
}

bigint count_outside(LAMMPS *lmp, int groups)
{
  bigint mine = 0;
  for (int i = 0; i < lmp->atom->nlocal; ++i)
    if (!(lmp->atom->mask[i] & groups)) ++mine;
  return sum_over_ranks(lmp, mine);
}

std::string name(const Fix *fix)
{
  return std::string("fix ") + fix->id + " (" + fix->style + ")";
}

// Why a compute would be without the model's part, or "". What LAMMPS itself makes for thermo is
// there in every run: its user is warned. 'fix_modify ID virial no' says that the part is not meant.
std::string refuse_compute(const Compute *compute, const Fix *external, bool virial)
{
  const std::string id = compute->id, ours = external->id;
  const std::string begin = "compute " + id + " (" + compute->style + ") needs ";
  const std::string end = ", and would be without its part: take the compute out, or give"
                          " 'fix_modify " + ours;
  const Need what = need(compute);
  if (what == Need::atom_energies && external->thermo_energy)
    return begin + "each atom's energy, but the model gives none" + end +
        " energy no' if that part is not wanted";
  if (what == Need::atom_virials && external->thermo_virial)
    return begin + "each atom's virial, but the model gives " +
        (virial ? "only that of all" : "no virial") + end + " virial no' if that part is not wanted";
  if (what == Need::pressure && !virial && external->thermo_virial && id != "thermo_press")
    return begin + "the virial, but the model gives none" + end +
        " virial no' if that part is not wanted";
  return "";
}

// Atoms that feel no force from the model, or do not move by it, make the net force a real one.
bool atoms_held(LAMMPS *lmp, const Fix *external)
{
  if (count_outside(lmp, external->groupbit) > 0) return true;
  int integrated = 0;
  for (int i = 0; i < lmp->modify->nfix; ++i) {
    const Fix *fix = lmp->modify->fix[i];
    if (holds_atoms(fix->style)) return true;
    if (fix->time_integrate) integrated |= fix->groupbit;
  }
  const bool dynamics = lmp->update->whichflag == 1 && integrated != 0;
  return dynamics && count_outside(lmp, integrated) > 0;
}

// One per type, or none where they are not all set yet or belong to the atoms.
std::vector<double> masses(LAMMPS *lmp)
{
  const Atom *atom = lmp->atom;
  if (atom->rmass_flag || !atom->mass) return {};
  for (int type = 1; type <= atom->ntypes; ++type)
    if (!atom->mass_setflag[type]) return {};
  return {atom->mass + 1, atom->mass + 1 + atom->ntypes};
}

}    // namespace

Fix *find_fix(LAMMPS *lmp, const std::string &id)
{
  for (int i = 0; i < lmp->modify->nfix; ++i)
    if (id == lmp->modify->fix[i]->id) return lmp->modify->fix[i];
  return nullptr;
}

std::string refuse_system(LAMMPS *lmp)
{
  const std::string units = lmp->update->unit_style;
  if (units == "lj")
    return "'units lj' has no physical scale, so no model can be asked: use units metal or real";
  bool known = false;
  for (const char *style : {"metal", "real", "si", "cgs", "electron", "micro", "nano"})
    known = known || units == style;
  if (!known) return "the unit style '" + units + "' is not known here: use units metal or real";
  if (!lmp->atom->tag_enable)
    return "atoms without ids ('atom_modify id no') cannot be told apart between steps: let them"
           " have ids";
  return "";
}

std::string refuse_run(LAMMPS *lmp, Fix *external)
{
  if (lmp->update->whichflag == 1 && is_one_of(lmp->update->integrate_style, {"respa"}))
    return "under 'run_style respa' LAMMPS does not call fix external after the set-up and the"
           " atoms would feel no force: use 'run_style verlet'";

  for (int i = 0; i < lmp->modify->nfix && lmp->modify->fix[i] != external; ++i) {
    const Fix *earlier = lmp->modify->fix[i];
    if (replaces_forces(earlier->style) &&
        count_in_both(lmp, earlier->groupbit, external->groupbit) > 0)
      return name(earlier) + " is defined before fix " + external->id +
          " and would not see the model's forces on the atoms both act on: define it after fix " +
          external->id;
  }
  return "";
}

std::string refuse_without(LAMMPS *lmp, const Fix *external, bool energy, bool virial)
{
  for (int i = 0; i < lmp->modify->nfix; ++i) {
    const Fix *fix = lmp->modify->fix[i];
    if (!virial && needs_virial(fix->style))
      return name(fix) + " needs the pressure, but the model gives no virial: keep the volume"
                         " fixed or serve a model with virial";
    if (!energy && needs_energy(fix->style))
      return name(fix) + " needs the energy, but the model gives none: serve a model with energy";
  }
  for (int i = lmp->modify->ncompute - 1; i >= 0; --i) {    // what is made of others comes after them
    const std::string reason = refuse_compute(lmp->modify->compute[i], external, virial);
    if (!reason.empty()) return reason;
  }
  // temper and its kin run as commands: nothing else in LAMMPS tells of them.
  const char *command = lmp->input->command;
  if (!energy && command && is_one_of(command, {"temper"}))
    return std::string("the command ") + command + " swaps replicas by their energies, but the model"
        " gives none: run them without swaps, or serve a model with energy";
  if (energy || lmp->update->whichflag != 2) return "";

  if (!is_one_of(lmp->update->minimize_style, {"fire", "quickmin"}))
    return std::string("min_style ") + lmp->update->minimize_style +
        " needs the energy, but the model gives none: use 'min_style fire' or quickmin with an"
        " energy tolerance of 0.0";
  if (lmp->update->etol != 0.0)
    return "the energy tolerance of minimize must be 0.0, because the model gives no energy and"
           " the minimiser would stop at once: set it to 0.0 and stop by the force tolerance";
  return "";
}

bool repeats(const Domain *domain, int d)
{
  return domain->periodicity[d] && !(d == 2 && domain->dimension == 2);
}

Settings describe(LAMMPS *lmp, Fix *external, const std::vector<std::string> &elements,
                  bool mass_check)
{
  Settings settings;
  settings.engine = "lammps " + std::to_string(lmp->num_ver);
  settings.units = lmp->update->unit_style;
  settings.elements = elements;
  settings.masses = masses(lmp);
  settings.mass_check = mass_check;
  for (int d = 0; d < 3; ++d) settings.periodic[d] = repeats(lmp->domain, d);
  settings.group = lmp->group->names[external->igroup];
  settings.held = atoms_held(lmp, external);
  settings.atoms = lmp->atom->natoms;
  settings.spread = true;
  return settings;
}

}    // namespace forcenet
