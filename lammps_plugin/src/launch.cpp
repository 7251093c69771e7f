#include "launch.h"

#include "mpi_server.h"

#include <dlfcn.h>

#include <string>

namespace forcenet {

namespace {

MPI_Comm launch_of_all = MPI_COMM_NULL;
MPI_Comm spoken_to = MPI_COMM_NULL;
void *library = nullptr;    // while LAMMPS runs
int leader = -1;
bool is_root = false;

// Not collective: after a fault of one rank LAMMPS comes here on that rank alone.
void say_end()
{
  library = nullptr;
  int started = 0, over = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&over);
  if (!started || over || !is_root || leader < 0) return;
  if (spoken_to != MPI_COMM_NULL) MpiServer::say_gone(spoken_to);
  const int end = 0;
  MPI_Send(&end, 1, MPI_INT, leader, knock_tag, launch_of_all);
}

}    // namespace

int other_program(MPI_Comm launch, MPI_Comm world)
{
  MPI_Group all, ours;
  MPI_Comm_group(launch, &all);
  MPI_Comm_group(world, &ours);
  int size = 0;
  MPI_Comm_size(launch, &size);
  int found = -1;
  for (int rank = 0; rank < size && found < 0; ++rank) {
    int place = 0;
    MPI_Group_translate_ranks(all, 1, &rank, ours, &place);
    if (place == MPI_UNDEFINED) found = rank;
  }
  MPI_Group_free(&all);
  MPI_Group_free(&ours);
  return found;
}

void *announce_end(MPI_Comm launch, MPI_Comm world)
{
  if (library) return library;    // `clear` loads plugins again
  Dl_info self;
  if (!dladdr(reinterpret_cast<void *>(&announce_end), &self)) return nullptr;
  const std::string path = self.dli_fname;
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash);
  void *opened = dlopen((folder + "/forcenetend.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!opened) return nullptr;
  using AtEnd = void (*)(void (*)());
  const auto at_end = reinterpret_cast<AtEnd>(dlsym(opened, "forcenet_at_end"));
  if (!at_end) return nullptr;
  int me = 0;
  MPI_Comm_rank(world, &me);
  is_root = me == 0;
  launch_of_all = launch;
  leader = other_program(launch, world);
  at_end(&say_end);
  return library = opened;
}

void set_spoken_to(MPI_Comm server)
{
  spoken_to = server;
}

bool is_spoken_to()
{
  return spoken_to != MPI_COMM_NULL;
}

}    // namespace forcenet
