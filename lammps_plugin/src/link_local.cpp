// The part of Link that chooses whom to ask, and the ways on which nothing is gathered: LAMMPS's
// atoms stay on their ranks.
#include "link.h"

#include "faults.h"
#include "launch.h"

#include "atom.h"
#include "comm.h"
#include "lammps.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>

using namespace LAMMPS_NS;

namespace forcenet {

void Link::connect()
{
  stop_if(refusal([&] { local_ = Local::find(); }));
  if (local_) return;
  const auto tell = [this](const auto &line) { say(line); };
  double in_process = options_.client.door >= 0;    // rank 0 knows
  ranks_.share(&in_process, 1);
  if (MpiServer::is_meant(options_.client.address) && !in_process) {
    const MPI_Comm launch = launch_of(lmp->external_comm);
    stop_if(refusal(
        [&] { mpi_ = std::make_unique<MpiServer>(options_.client, world, launch, tell); }));
    return;
  }
  stop_if(ranks_.on_root([&] { client_ = std::make_unique<Client>(options_.client, tell); }));
}

// LAMMPS's ghosts shall reach as far as the model sees, and as atoms may move until it looks again.
void Link::widen_communication()
{
  if (comm->mode != Comm::SINGLE)
    stop("with the model on every rank ghosts must have one cutoff: use 'comm_modify mode single'");
  double reach = 0.0;
  stop_if(refusal([&] { reach = local_->shell(neighbor->skin); }));
  comm->cutghostuser = std::max(comm->cutghostuser, reach);
}

void Link::compute_locally(bigint step, double **x, double **f)
{
  LocalStep request{};
  request.head = head(step);
  request.owned = atom->nlocal;
  request.all = atom->nlocal + atom->nghost;
  request.fresh = is_fresh();
  if (request.fresh) {
    owner_.resize(2 * static_cast<std::size_t>(request.all));
    for (int i = 0; i < atom->nlocal; ++i) {
      owner_[2 * static_cast<std::size_t>(i)] = comm->me;
      owner_[2 * static_cast<std::size_t>(i) + 1] = i;
    }
    comm->forward_comm(this);
  }
  request.id = atom->tag;
  request.id_bytes = sizeof(tagint);
  request.type = atom->type;
  request.x = request.all ? x[0] : nullptr;
  request.v = velocities_ && request.owned ? atom->v[0] : nullptr;
  request.owner = owner_.data();
  request.skin = neighbor->skin;
  request.force = request.owned ? f[0] : nullptr;
  std::string line;
  stop_if(refusal([&] { line = local_->forces(request); }));
  if (!line.empty() && comm->me == 0) say("forcenet " + external_id_ + ": " + line);
}

// Atoms also stay where they are for a server on other MPI ranks, to which each rank sends its own.
void Link::compute_remotely(bigint step, double **x, double **f)
{
  const int count = atom->nlocal;
  const bool fresh = is_fresh();
  stop_if(refusal([&] {
    mpi_->forces(head(step), fresh, count, atom->tag, atom->type, count ? x[0] : nullptr,
                 velocities_ && count ? atom->v[0] : nullptr, count ? f[0] : nullptr);
  }));
}

// Whether atoms or their order may have changed since the last call. LAMMPS counts, the same on all
// ranks, how often it has built its lists.
bool Link::is_fresh()
{
  const bigint now[2] = {neighbor->ncalls, neighbor->lastcall};
  const bool fresh = update->setupflag || !std::equal(now, now + 2, neighboured_);
  std::copy_n(now, 2, neighboured_);
  return fresh;
}

int Link::pack_forward_comm(int count, int *rows, double *into, int, int *)
{
  for (int i = 0; i < count; ++i)
    std::copy_n(&owner_[2 * static_cast<std::size_t>(rows[i])], 2, into + 2 * i);
  return 2 * count;
}

void Link::unpack_forward_comm(int count, int first, double *from)
{
  std::copy_n(from, 2 * count, owner_.begin() + 2 * static_cast<std::ptrdiff_t>(first));
}

}    // namespace forcenet
