// What LAMMPS's ranks tell one another, asleep while they wait; for one server all ranks' atoms on
// rank 0 in the order of their ids, and the forces back.
#pragma once

#include "protocol.h"

#include "lmptype.h"

#include <mpi.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace forcenet {

// One rank's own atoms; `v` is null where velocities are not wanted.
struct Atoms {
  int count = 0;
  const LAMMPS_NS::tagint *id = nullptr;
  const int *type = nullptr;
  double **x = nullptr;
  double **v = nullptr;
};

class Ranks {
 public:
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;

  explicit Ranks(MPI_Comm world);
  bool is_root() const { return me_ == 0; }

  // Runs `work` on rank 0 and returns on every rank the sentence of the fault it threw, or "".
  std::string on_root(const std::function<void()> &work);
  // Rank 0's numbers, or its text, on every rank.
  void share(double *numbers, int count) { share(numbers, count, nullptr); }
  void share(std::string &text) { share(text, nullptr); }
  // The largest of all ranks.
  int largest(int mine);
  // Asleep until it is done. `last`: how long the last wait of this kind took; kept up to date.
  // `look`: called now and then, and may throw. Throws Lost where MPI reports a fault.
  static void wait(MPI_Request &request, Seconds *last = nullptr,
                   const std::function<void()> &look = {});

  // Collects the atoms on rank 0; returns on every rank how many there are. Throws Refused, on
  // every rank, if there are too many for one message.
  std::size_t collect(const Atoms &atoms);
  // Rank 0: the collected atoms as a STEP. Throws Refused where ids are missing or double.
  void fill(StepMessage &step, const StepHead &head);
  // Hands the answer's forces back to the ranks the atoms came from, and with `with_spread` each
  // atom's spread.
  void scatter(const Answer &answer, int count, double **force, bool with_spread, double *spread);

 private:
  void sort();
  void share(double *numbers, int count, Seconds *last);
  void share(std::string &text, Seconds *last);

  MPI_Comm world_;
  int me_ = 0, size_ = 1;
  Seconds last_work_{0.0};    // how long the others waited for rank 0 and the server
  bool velocities_ = false;
  std::size_t total_ = 0;
  std::vector<double> mine_, all_;              // packed atoms: id, type, x, and v if wanted
  std::vector<int> counts_, lengths_, starts_;  // rank 0: atoms and numbers per rank
  std::vector<std::int64_t> ids_, last_ids_;    // rank 0: in the order of collection
  std::vector<std::size_t> order_;              // rank 0: order_[row of STEP] = row collected
};

}    // namespace forcenet
