// One mpirun for LAMMPS (-mpicolor) and the server. When LAMMPS ends, by a fault of its input too,
// it waits for all ranks of the launch; the server, asleep, must hear that it is time.
#pragma once

#include <mpi.h>

namespace forcenet {

constexpr int knock_tag = 1701;

// LAMMPS's external_comm: without -mpicolor it is null, which older ones write as 0.
inline MPI_Comm launch_of(MPI_Comm external) { return external ? external : MPI_COMM_NULL; }

// The first rank of the launch that is none of LAMMPS's: the server's; negative where there is none.
int other_program(MPI_Comm launch, MPI_Comm world);

// From now on the server hears of LAMMPS's end. Returns the library that LAMMPS must take for that
// of a style, since it closes those last of all; null where there is none beside the plugin.
void *announce_end(MPI_Comm launch, MPI_Comm world);

// The ranks of the server that are spoken to, or MPI_COMM_NULL: they too hear of the end.
void set_spoken_to(MPI_Comm server);
bool is_spoken_to();

}    // namespace forcenet
