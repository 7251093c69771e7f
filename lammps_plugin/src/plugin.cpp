// What LAMMPS calls when it loads the plugin.
#include "forcenet_command.h"
#include "launch.h"
#include "link.h"

#include "lammps.h"
#include "library.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#ifndef FORCENET_LAMMPS_VERSION
#error "define FORCENET_LAMMPS_VERSION, the LAMMPS version of the headers as a number: 20250722"
#endif

// Since November 2022; an older LAMMPS has no such symbol and leaves it null.
extern "C" void lammps_error(void *, int, const char *) __attribute__((weak));

namespace {

using namespace LAMMPS_NS;

// The record LAMMPS's plugin loader takes (its lammpsplugin.h is not among the installed headers).
struct Registration {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  void *creator;
  void *handle;
};
using Register = void (*)(Registration *, void *);

std::string refusal;    // why this LAMMPS cannot use the plugin; empty if it can

// Stands for the real command where the plugin does not fit. LAMMPS's own classes may lie
// otherwise in memory there, so it touches none of them and stops through the C interface.
class RefusedCommand : public Command {
 public:
  using Command::Command;
  void command(int, char **) override
  {
    if (lammps_error) lammps_error(lmp, 2, refusal.c_str());
    std::fprintf(stderr, "ERROR: %s\n", refusal.c_str());
    std::exit(1);
  }
};

Command *create_command(LAMMPS *lmp)
{
  if (refusal.empty()) return new forcenet::ForcenetCommand(lmp);
  return new RefusedCommand(lmp);
}

Fix *create_link(LAMMPS *lmp, int narg, char **arg)
{
  return new forcenet::Link(lmp, narg, arg);
}

// "MPICH", "Open MPI", or "" for others, which are taken on trust.
std::string kind_of_mpi(const std::string &description)
{
  if (description.find("Open MPI") != std::string::npos) return "Open MPI";
  for (const char *family : {"MPICH", "Intel(R) MPI", "MVAPICH"})    // one binary interface
    if (description.find(family) != std::string::npos) return "MPICH";
  return "";
}

std::string built_with_mpi()
{
#if defined(OPEN_MPI)
  return "Open MPI";
#elif defined(MPICH_VERSION) || defined(MPICH_NAME)
  return "MPICH";
#else
  return "";
#endif
}

std::string check(void *lmp)
{
  const std::string again = ": build it again for this one with 'forcenet-md build-plugin'";
  const int version = lammps_version(lmp);
  if (version != FORCENET_LAMMPS_VERSION)
    return "forcenet: this plugin was built for LAMMPS " + std::to_string(FORCENET_LAMMPS_VERSION) +
        ", this LAMMPS is " + std::to_string(version) + again;
  const int bytes = lammps_extract_setting(lmp, "tagint");
  if (bytes != static_cast<int>(sizeof(tagint)))
    return "forcenet: this plugin was built for atom ids of " + std::to_string(sizeof(tagint)) +
        " bytes, this LAMMPS has " + std::to_string(bytes) + again +
        (bytes == 8 ? " --bigbig" : " without --bigbig");

  char description[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(description, &length);
  const std::string theirs = kind_of_mpi(description), ours = built_with_mpi();
  if (!theirs.empty() && !ours.empty() && theirs != ours)
    return "forcenet: this plugin was built with " + ours + ", this LAMMPS runs on " + theirs +
        again + " --mpicxx PATH";
  return "";
}

}    // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  static const std::string version = std::to_string(FORCENET_LAMMPS_VERSION);
  const auto add = reinterpret_cast<Register>(regfunc);
  refusal = check(lmp);
  const char *spoken = refusal.empty() ? static_cast<LAMMPS *>(lmp)->version : version.c_str();

  Registration command{spoken, "command", "forcenet",
                       "forces from a forcenet-md server", "forcenet-md",
                       reinterpret_cast<void *>(&create_command), handle};
  add(&command, lmp);
  if (!refusal.empty()) {
    if (lammps_extract_setting(lmp, "world_rank") == 0)
      std::fprintf(stderr, "WARNING: %s\n", refusal.c_str());
    return;
  }
  // In one launch with other programs the server must hear of LAMMPS's end.
  const auto *lammps = static_cast<LAMMPS *>(lmp);
  const MPI_Comm launch = forcenet::launch_of(lammps->external_comm);
  if (launch != MPI_COMM_NULL)
    if (void *end = forcenet::announce_end(launch, lammps->world)) handle = end;
  Registration fix{spoken, "fix", forcenet::Link::style_name,
                   "the connection behind the command forcenet", "forcenet-md",
                   reinterpret_cast<void *>(&create_link), handle};
  add(&fix, lmp);
}
