#include "ranks.h"

#include "faults.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <numeric>
#include <thread>

#ifdef __linux__
#include <sys/prctl.h>
#endif

namespace forcenet {

namespace {

// Integers travel in the bits of a double, so that one message carries all of an atom.
double as_double(std::int64_t value)
{
  double bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

std::int64_t as_integer(double bits)
{
  std::int64_t value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}    // namespace

Ranks::Ranks(MPI_Comm world) : world_(world)
{
  MPI_Comm_rank(world_, &me_);
  MPI_Comm_size(world_, &size_);
#ifdef __linux__
  prctl(PR_SET_TIMERSLACK, 2000);    // ns: a short sleep shall not become a long one
#endif
}

// A rank in a blocking collective burns a core, which may be the server's: this one sleeps. Steps
// are alike, so it looks rarely until about the time the last such wait took, then closely, and if
// that has passed ever more rarely: late by about half a per cent at little cost.
void Ranks::wait(MPI_Request &request, Seconds *last, const std::function<void()> &look)
{
  const auto start = Clock::now();
  const Seconds usual = last ? *last : Seconds(0.0);
  for (;;) {
    int done = 0;
    if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS)
      throw Lost("MPI reports a fault");
    const Seconds waited = Clock::now() - start;
    if (done) {
      if (last) *last = waited;
      return;
    }
    if (waited < Seconds(20e-6)) continue;
    if (look) look();
    const Seconds pause = waited < 0.9 * usual ? usual / 10
        : waited < 1.1 * usual                 ? usual / 200
                                               : waited / 50;
    std::this_thread::sleep_for(std::clamp(pause, Seconds(5e-6), Seconds(1e-3)));
  }
}

void Ranks::share(double *numbers, int count, Seconds *last)
{
  if (size_ == 1) return;
  MPI_Request request;
  MPI_Ibcast(numbers, count, MPI_DOUBLE, 0, world_, &request);
  wait(request, last);
}

void Ranks::share(std::string &text, Seconds *last)
{
  double length = static_cast<double>(text.size());
  share(&length, 1, last);
  text.resize(static_cast<std::size_t>(length));
  if (size_ == 1 || text.empty()) return;
  MPI_Request request;
  MPI_Ibcast(&text[0], static_cast<int>(text.size()), MPI_CHAR, 0, world_, &request);
  wait(request);
}

std::string Ranks::on_root(const std::function<void()> &work)
{
  std::string fault;
  if (is_root()) {
    try {
      work();
    } catch (const std::exception &error) {
      fault = printable(error.what());
      if (fault.empty()) fault = "the server gave no reason";
    }
  }
  share(fault, &last_work_);
  return fault;
}

int Ranks::largest(int mine)
{
  int all = mine;
  MPI_Request request;
  MPI_Iallreduce(&mine, &all, 1, MPI_INT, MPI_MAX, world_, &request);
  wait(request);
  return all;
}

std::size_t Ranks::collect(const Atoms &atoms)
{
  velocities_ = atoms.v != nullptr;
  const std::size_t width = velocities_ ? 8 : 5;
  mine_.resize(width * static_cast<std::size_t>(atoms.count));
  double *to = mine_.data();
  for (int i = 0; i < atoms.count; ++i, to += width) {
    to[0] = as_double(atoms.id[i]);
    to[1] = as_double(atoms.type[i]);
    std::copy_n(atoms.x[i], 3, to + 2);
    if (velocities_) std::copy_n(atoms.v[i], 3, to + 5);
  }

  counts_.resize(static_cast<std::size_t>(size_));
  lengths_.resize(counts_.size());
  starts_.resize(counts_.size());
  int count = atoms.count;
  MPI_Request request;
  MPI_Iallgather(&count, 1, MPI_INT, counts_.data(), 1, MPI_INT, world_, &request);
  wait(request);
  total_ = 0;
  for (int n : counts_) total_ += static_cast<std::size_t>(n);
  if (total_ * 8 > static_cast<std::size_t>(INT_MAX))
    throw Refused(std::to_string(total_) + " atoms are more than one message can carry");

  if (size_ == 1) {
    all_.swap(mine_);
    return total_;
  }
  for (std::size_t r = 0, start = 0; r < counts_.size(); start += lengths_[r++]) {
    lengths_[r] = counts_[r] * static_cast<int>(width);
    starts_[r] = static_cast<int>(start);
  }
  if (is_root()) all_.resize(width * total_);
  MPI_Igatherv(mine_.data(), static_cast<int>(mine_.size()), MPI_DOUBLE, all_.data(),
               lengths_.data(), starts_.data(), MPI_DOUBLE, 0, world_, &request);
  wait(request);
  return total_;
}

void Ranks::fill(StepMessage &step, const StepHead &head)
{
  const std::size_t width = velocities_ ? 8 : 5;
  ids_.resize(total_);
  for (std::size_t i = 0; i < total_; ++i) ids_[i] = as_integer(all_[width * i]);
  sort();

  step.start(head, total_, velocities_);
  for (std::size_t row = 0; row < total_; ++row) {
    const double *from = &all_[width * order_[row]];
    step.set_atom(row, as_integer(from[0]), static_cast<std::int32_t>(as_integer(from[1])),
                  from + 2, from + 5);
  }
}

// Atoms change ranks and places only where LAMMPS re-neighbours: mostly the last order holds.
void Ranks::sort()
{
  if (ids_ == last_ids_) return;
  order_.resize(total_);
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  std::sort(order_.begin(), order_.end(),
            [this](std::size_t a, std::size_t b) { return ids_[a] < ids_[b]; });
  for (std::size_t row = 0; row < total_; ++row) {
    const std::int64_t id = ids_[order_[row]];
    if (id <= 0)
      throw Refused("an atom has no id (" + std::to_string(id) +
                    "): let 'reset_atoms id' give ids");
    if (row > 0 && id == ids_[order_[row - 1]])
      throw Refused("two atoms have the id " + std::to_string(id) +
                    ": let 'reset_atoms id' give new ids");
  }
  last_ids_ = ids_;
}

void Ranks::scatter(const Answer &answer, int count, double **force, bool with_spread,
                    double *spread)
{
  const int width = with_spread ? 4 : 3;
  if (is_root()) {
    all_.resize(width * total_);
    for (std::size_t row = 0; row < total_; ++row) {
      double *to = &all_[width * order_[row]];
      answer.force(row, to);
      if (with_spread) to[3] = answer.spread(row, total_);
    }
  }
  const double *from = all_.data();
  if (size_ > 1) {
    for (std::size_t r = 0, start = 0; r < counts_.size(); start += lengths_[r++]) {
      lengths_[r] = width * counts_[r];
      starts_[r] = static_cast<int>(start);
    }
    mine_.resize(width * static_cast<std::size_t>(count));
    MPI_Request request;
    MPI_Iscatterv(all_.data(), lengths_.data(), starts_.data(), MPI_DOUBLE, mine_.data(),
                  width * count, MPI_DOUBLE, 0, world_, &request);
    wait(request);
    from = mine_.data();
  }
  for (int i = 0; i < count; ++i, from += width) {
    std::copy_n(from, 3, force[i]);
    if (with_spread) spread[i] = from[3];
  }
}

}    // namespace forcenet
