// The model on this very rank: it takes LAMMPS's atoms where they lie, and nothing is gathered.
//
// `mpirun -n R forcenet-md lammps` puts an Evaluator's address into the environment; its functions
// are Python's (forcenet_md/engines/lammps_structs.py has the same structs). Every call is collective
// and fails on all ranks alike.
#pragma once

#include "protocol.h"

#include <cstdint>
#include <memory>

namespace forcenet {

// One request: this rank's atoms come first, then LAMMPS's ghosts, in LAMMPS's units.
struct LocalStep {
  StepHead head;
  std::int32_t fresh;        // atoms, ghosts or their order may have changed
  std::int32_t id_bytes;     // of one id
  std::int64_t owned, all;
  const void *id;            // [all]
  const int *type;           // [all]
  const double *x;           // [all][3]
  const double *v;           // [owned][3], or null where they are not wanted
  const double *owner;       // [all][2] the rank and the row of each atom, of fresh ones
  double skin;               // what LAMMPS's neighbour lists have beyond their cutoff
  double *force;             // [owned][3]
};

struct Evaluator {
  // Each returns 0, or 1 and a sentence in `reply`.
  int (*open)(int *handle, char *reply, int room);
  int (*hello)(int handle, const char *text, int length, char *reply, int room);    // a WELCOME
  int (*shell)(int handle, double skin, double *cutoff, char *reply, int room);
  int (*forces)(int handle, LocalStep *step, char *reply, int room);    // "", or a line to tell
  void (*close)(int handle);
};

class Local {
 public:
  // Null where the model is not on every rank of this process's LAMMPS. Throws Refused.
  static std::unique_ptr<Local> find();
  ~Local() { evaluator_->close(handle_); }
  Local(const Local &) = delete;
  Local &operator=(const Local &) = delete;

  // All throw Refused.
  Welcome hello(const Settings &settings);
  double shell(double skin);    // how far LAMMPS's ghosts must reach, in its units
  std::string forces(LocalStep &step);    // what there is to tell the user, mostly nothing

 private:
  explicit Local(const Evaluator *evaluator);
  void check(int code);

  const Evaluator *evaluator_;
  int handle_ = -1;
  std::string reply_ = std::string(text_limit, '\0');
};

}    // namespace forcenet
