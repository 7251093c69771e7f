#include "link.h"

#include "checks.h"
#include "faults.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "lammps.h"
#include "library.h"
#include "modify.h"
#include "update.h"

#include <algorithm>
#include <cstring>

using namespace LAMMPS_NS;

namespace forcenet {

std::string Link::id_for(const std::string &external_id)
{
  return "FORCENET_" + external_id;
}

Link::Link(LAMMPS *lmp, int narg, char **arg) : Fix(lmp, narg, arg), ranks_(world)
{
  if (narg != 4) stop("this fix is made by the command forcenet and not by hand");
  external_id_ = arg[3];
  dynamic_group_allow = 1;
  global_freq = peratom_freq = 1;
  extscalar = 0;
  size_peratom_cols = 0;
  maxexchange = 1;
  comm_forward = 2;
  grow_arrays(atom->nmax);
  atom->add_callback(Atom::GROW);    // here, for LAMMPS takes the fix that is being made
}

Link::~Link()
{
  atom->delete_callback(id, Atom::GROW);
  // `clear` deletes fixes in order, the fix external before this one: then nothing is left to do.
  if (external_ && find_fix(lmp, external_id_) == external_)
    lammps_set_fix_external_callback(lmp, external_id_.c_str(), &on_detached_call, lmp);
}

void Link::open(const LinkOptions &options)
{
  options_ = options;
  stop_if(refuse_system(lmp));
  external_ = find_fix(lmp, external_id_);
  lammps_set_fix_external_callback(lmp, external_id_.c_str(), &on_call, this);
  probe();
  connect();
  introduce();
}

int Link::setmask()
{
  using namespace FixConst;
  return PRE_FORCE | MIN_PRE_FORCE | POST_FORCE | MIN_POST_FORCE;
}

// The beginning of a run or a minimisation, when everything is known of it.
void Link::init()
{
  if (update->whichflag == 0) return;    // write_data and the like initialise without a run
  if (external_ && find_fix(lmp, external_id_) != external_) {
    external_ = nullptr;    // unfixed
    client_.reset();
    mpi_.reset();
    local_.reset();
  }
  if (!external_) return;

  stop_if(refuse_system(lmp));
  stop_if(refuse_run(lmp, external_));
  introduce();
  if (local_) widen_communication();
  stop_if(refuse_without(lmp, external_, energy_, virial_));
  if (!energy_ && !virial_)
    warn("the model gives forces alone: pe, etotal and press, and all made of them, lack its part");
  else if (!energy_)
    warn("the model gives no energy: pe and etotal, and all made of them, lack its part");
  else if (!virial_)
    warn("the model gives no virial: press, and all made of it, lacks its part");
  if (options_.mass_check && atom->rmass_flag)
    warn("atoms have masses of their own here, which are not held against the elements");
  called_ = false;
}

// The fix external does not say whether it was made with pf/callback 1 1, so it is tried: at
// timestep 1 only such a one calls, and adds what the call gave. Forces are put back afterwards.
void Link::probe()
{
  if (proved_ || !external_) return;
  const int nlocal = atom->nlocal;
  double **f = atom->f;
  std::vector<double> kept;
  for (int i = 0; i < nlocal; ++i) {
    kept.insert(kept.end(), f[i], f[i] + 3);
    f[i][0] = f[i][1] = f[i][2] = 0.0;
  }
  const bigint now = update->ntimestep;
  const bool called_before = called_;
  called_ = false;
  probing_ = true;
  update->ntimestep = 1;
  external_->pre_reverse(0, 0);    // no energies or virials are wanted of this call
  external_->post_force(0);
  update->ntimestep = now;
  probing_ = false;

  int seen[3] = {called_, 0, 0};    // a call; atoms of the group; those that got the force
  for (int i = 0; i < nlocal; ++i) {
    if (atom->mask[i] & external_->groupbit) {
      seen[1] = 1;
      if (f[i][0] == 1.0) seen[2] = 1;
    }
    std::memcpy(f[i], &kept[3 * static_cast<std::size_t>(i)], 3 * sizeof(double));
  }
  called_ = called_before;
  int all[3];
  MPI_Allreduce(seen, all, 3, MPI_INT, MPI_MAX, world);

  const std::string remedy = ": define it as 'fix " + external_id_ +
      " GROUP external pf/callback 1 1'";
  if (!all[0])
    stop("fix " + external_id_ + " is pf/array, or its Ncall is not 1, so that it does not ask"
         " for forces at every step" + remedy);
  if (all[1] && !all[2])
    stop("the Napply of fix " + external_id_ + " is not 1, so that it does not apply the forces"
         " at every step" + remedy);
  proved_ = all[1] != 0;    // with no atoms in the group yet, Napply cannot show
}

// HELLO and WELCOME: every run says anew what it is.
void Link::introduce()
{
  const Settings settings = describe(lmp, external_, options_.elements, options_.mass_check);
  Welcome welcome;
  stop_if(local_       ? refusal([&] { welcome = local_->hello(settings); })
              : mpi_ ? refusal([&] { welcome = mpi_->hello(settings); })
                     : ranks_.on_root([&] { welcome = client_->hello(settings); }));
  double flags[4] = {double(welcome.energy), double(welcome.virial), double(welcome.velocities),
                     double(welcome.spread)};
  ranks_.share(flags, 4);
  energy_ = flags[0] != 0.0;
  virial_ = flags[1] != 0.0;
  velocities_ = flags[2] != 0.0;
  committee_ = flags[3] != 0.0;
  offer_spread();
  if (options_.client.door >= 0 || local_) {
    const std::string line = "forcenet " + external_id_ + ": forces come from the model " +
        printable(welcome.model) + (local_ ? " on every rank" : " in this process") +
        "; the address " + options_.client.address + " is not used";
    if (comm->me == 0 && told_.insert(line).second) say(line);
  }
  for (const auto &warning : welcome.warnings) warn(printable(warning));    // rank 0 has them
}

// What thermo, dumps and computes may ask of this fix.
void Link::offer_spread()
{
  scalar_flag = peratom_flag = committee_;
  const std::string line = "forcenet " + external_id_ + ": a committee answers; the largest spread of"
      " its forces is f_" + id + " in thermo_style custom, each atom's is f_" + id +
      " in dump custom";
  if (committee_ && comm->me == 0 && told_.insert(line).second) say(line);
}

void Link::grow_arrays(int size)
{
  spread_.resize(static_cast<std::size_t>(size) + 1);    // never empty
  vector_atom = spread_.data();
}

double Link::compute_scalar()
{
  double largest = 0.0, all = 0.0;
  for (int i = 0; i < atom->nlocal; ++i) largest = std::max(largest, spread_[i]);
  MPI_Allreduce(&largest, &all, 1, MPI_DOUBLE, MPI_MAX, world);
  return all;
}

// Whether the fix external, which runs before this one, has asked in this step.
void Link::post_force(int)
{
  if (!external_) return;
  if (!called_)
    stop("LAMMPS did not ask for the model's forces at step " + std::to_string(update->ntimestep) +
         ": something has taken fix " + external_id_ + " over, give the command forcenet again");
  called_ = false;
}

void Link::on_call(void *self, bigint step, int count, tagint *tag, double **x, double **f)
{
  auto *link = static_cast<Link *>(self);
  link->called_ = true;
  if (!link->probing_) {
    link->compute(step, count, tag, x, f);
    return;
  }
  for (int i = 0; i < count; ++i) f[i][0] = f[i][1] = f[i][2] = 1.0;
}

void Link::on_detached_call(void *lmp, bigint, int, tagint *, double **, double **)
{
  static_cast<LAMMPS *>(lmp)->error->all(
      FLERR, std::string("forcenet: a fix external has lost its force server: give the command"
                         " forcenet again, or unfix it"));
}

void Link::compute(bigint step, int count, tagint *tag, double **x, double **f)
{
  if (local_) {
    compute_locally(step, x, f);
    return;
  }
  if (mpi_) {
    compute_remotely(step, x, f);
    return;
  }
  Atoms atoms;
  atoms.count = count;
  atoms.id = tag;
  atoms.type = atom->type;
  atoms.x = x;
  atoms.v = velocities_ ? atom->v : nullptr;
  std::size_t total = 0;
  stop_if(refusal([&] { total = ranks_.collect(atoms); }));
  double numbers[7] = {};    // energy and virial, which LAMMPS wants on every rank
  if (total > 0) {
    stop_if(ranks_.on_root([&] {
      ranks_.fill(message_, head(step));
      client_->evaluate(message_, answer_);
      if ((energy_ && !answer_.has_energy) || (virial_ && !answer_.has_virial) ||
          (committee_ && !answer_.has_spread))
        throw Refused("the server promised energy, virial or spread and gave none at step " +
                      std::to_string(step));
    }));
    ranks_.scatter(answer_, count, f, committee_, spread_.data());
  }
  if (!energy_ && !virial_) return;

  if (total > 0) {
    numbers[0] = answer_.energy;
    std::memcpy(numbers + 1, answer_.virial, sizeof(answer_.virial));
    ranks_.share(numbers, 7);
  }
  if (energy_) lammps_fix_external_set_energy_global(lmp, external_id_.c_str(), numbers[0]);
  if (virial_) lammps_fix_external_set_virial_global(lmp, external_id_.c_str(), numbers + 1);
}

StepHead Link::head(bigint step) const
{
  StepHead head;
  head.timestep = step;
  head.kind = update->setupflag ? Kind::setup
      : update->whichflag == 2  ? Kind::minimise
                                : Kind::run;
  head.dt = update->dt;
  const double cell[9] = {domain->xprd, 0.0, 0.0, domain->xy, domain->yprd,
                          0.0, domain->xz, domain->yz, domain->zprd};
  std::memcpy(head.cell, cell, sizeof(cell));
  std::memcpy(head.origin, domain->boxlo, sizeof(head.origin));
  for (int d = 0; d < 3; ++d)
    if (repeats(domain, d)) head.periodic |= 1u << d;
  return head;
}

// The sentence is data: these overloads of LAMMPS take no format string.
void Link::stop(const std::string &sentence)
{
  error->all(FLERR, "forcenet " + external_id_ + ": " + sentence);
}

void Link::stop_if(const std::string &sentence)
{
  if (!sentence.empty()) stop(sentence);
}

void Link::warn(const std::string &sentence)
{
  if (comm->me == 0 && told_.insert(sentence).second)
    error->warning(FLERR, "forcenet " + external_id_ + ": " + sentence);
}

void Link::say(const std::string &line) const
{
  for (FILE *file : {screen, logfile})
    if (file) {
      fputs((line + "\n").c_str(), file);
      fflush(file);
    }
}

}    // namespace forcenet
