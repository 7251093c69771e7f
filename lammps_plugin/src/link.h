// The fix behind the command `forcenet`: it ties a fix external to a connection.
//
// The command adds it after the fix external. Being a fix, LAMMPS tells it when a run begins (so
// that the set-up is checked and the server hears of it), when a force was due, and when it is
// deleted (by `clear`, at the end, or with its plugin), which closes the connection.
#pragma once

#include "client.h"
#include "local.h"
#include "mpi_server.h"
#include "ranks.h"

#include "fix.h"

#include <memory>
#include <set>
#include <string>
#include <vector>

namespace forcenet {

struct LinkOptions {
  std::vector<std::string> elements;    // one per atom type
  bool mass_check = true;
  ClientOptions client;
};

class Link : public LAMMPS_NS::Fix {
 public:
  static constexpr const char *style_name = "forcenet/link";
  static std::string id_for(const std::string &external_id);

  Link(LAMMPS_NS::LAMMPS *lmp, int narg, char **arg);
  ~Link() override;

  // Takes hold of the fix external and speaks to the server. Collective.
  void open(const LinkOptions &options);

  int setmask() override;
  void init() override;
  void setup_pre_force(int) override { probe(); }
  void pre_force(int) override { probe(); }
  void min_pre_force(int) override { probe(); }
  void setup(int vflag) override { post_force(vflag); }
  void min_setup(int vflag) override { post_force(vflag); }
  void post_force(int) override;
  void min_post_force(int vflag) override { post_force(vflag); }
  // The spread of a committee: the largest for thermo, each atom's for dumps.
  double compute_scalar() override;
  void grow_arrays(int size) override;
  void copy_arrays(int from, int to, int) override { spread_[to] = spread_[from]; }
  void set_arrays(int atom) override { spread_[atom] = 0.0; }
  int pack_exchange(int atom, double *into) override { into[0] = spread_[atom]; return 1; }
  int unpack_exchange(int atom, double *from) override { spread_[atom] = from[0]; return 1; }
  // Which rank has a ghost's atom, and in which row: for a model on every rank.
  int pack_forward_comm(int count, int *rows, double *into, int, int *) override;
  void unpack_forward_comm(int count, int first, double *from) override;
  // Empty as in Fix. Without it the plugin would need Fix's, whose name has the size of tagint in
  // it: a LAMMPS of other sizes would not load the plugin, and so never hear why.
  void set_molecule(int, LAMMPS_NS::tagint, int, double *, double *, double *) override {}

 private:
  static void on_call(void *self, LAMMPS_NS::bigint step, int count, LAMMPS_NS::tagint *tag,
                      double **x, double **f);
  static void on_detached_call(void *lmp, LAMMPS_NS::bigint, int, LAMMPS_NS::tagint *, double **,
                               double **);
  void compute(LAMMPS_NS::bigint step, int count, LAMMPS_NS::tagint *tag, double **x, double **f);
  void compute_locally(LAMMPS_NS::bigint step, double **x, double **f);
  void compute_remotely(LAMMPS_NS::bigint step, double **x, double **f);
  void connect();
  bool is_fresh();
  void widen_communication();
  void probe();
  void introduce();
  void offer_spread();
  StepHead head(LAMMPS_NS::bigint step) const;
  [[noreturn]] void stop(const std::string &sentence);
  void stop_if(const std::string &sentence);
  void say(const std::string &line) const;
  void warn(const std::string &sentence);

  std::string external_id_;
  Fix *external_ = nullptr;    // null while there is no such fix
  LinkOptions options_;
  Ranks ranks_;
  // One of three: the model is on every rank, on other MPI ranks, or behind a socket of rank 0.
  std::unique_ptr<Local> local_;
  std::unique_ptr<MpiServer> mpi_;
  std::unique_ptr<Client> client_;
  StepMessage message_;               // rank 0 only
  Answer answer_;
  bool energy_ = false, virial_ = false, velocities_ = false;    // what the model gives and wants
  bool committee_ = false;          // and so there is a spread
  std::vector<double> spread_;      // [nmax] of the rank's own atoms
  std::vector<double> owner_;       // [nall][2] rank and row, for `local_`
  LAMMPS_NS::bigint neighboured_[2] = {-1, -1};    // LAMMPS's count and step of it, then
  bool called_ = false;     // the fix external asked for forces in this step
  bool probing_ = false;    // the call at hand is the probe's
  bool proved_ = false;     // the fix external calls and applies at every step
  std::set<std::string> told_;
};

}    // namespace forcenet
