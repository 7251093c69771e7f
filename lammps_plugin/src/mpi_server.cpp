#include "mpi_server.h"

#include "faults.h"
#include "launch.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <thread>

namespace forcenet {

namespace {

constexpr double first_pause = 0.1, longest_pause = 2.0;    // s between two knocks
constexpr double glance = 1.0;                              // s between two looks at the server
constexpr std::size_t head_size = 17;

enum Tag { head_tag = 1702, text_tag, count_tag, label_tag, position_tag, answer_tag };

// By mpirun, srun or the like. MPICH takes all programs without a launch for one and the same: a
// server would know the first of them alone.
bool is_launched()
{
  for (const char *name : {"PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"})
    if (std::getenv(name)) return true;
  return false;
}

}    // namespace

MpiServer::MpiServer(const ClientOptions &options, MPI_Comm world, MPI_Comm launch,
                     Client::Say say) :
    options_(options), ranks_(world), world_(world), launch_(launch),
    door_(options.address.substr(4))
{
  if (options_.address == "mpi:") throw Refused("'mpi:' has no name: use mpi:NAME");
  if (launch_ == MPI_COMM_NULL)
    connect(say);
  else
    join();
  MPI_Comm_set_errhandler(server_, MPI_ERRORS_RETURN);
  find_parts();
}

// To a server that was launched by itself. Its port is longer than MPI_MAX_PORT_NAME in some MPIs.
void MpiServer::connect(const Client::Say &say)
{
  std::string port;
  const std::string fault = ranks_.on_root([&] {
    if (!is_launched())
      throw Refused("a server at mpi:NAME needs mpirun on both sides: start LAMMPS as 'mpirun -n 1"
                    " lmp -in FILE'");
    const Deadline patience(options_.retry);
    bool waiting = false;
    for (double pause = first_pause;; pause = std::min(2.0 * pause, longest_pause)) {
      try {
        port = door_.knock();
        return;
      } catch (const Lost &lost) {
        const bool busy = dynamic_cast<const Busy *>(&lost);
        const std::string sentence = "the force server at " + options_.address +
            " cannot be reached (" + lost.what() + "): start " +
            (busy ? "one of another NAME" : "it") +
            " with 'mpirun -n R forcenet-md serve --model MODEL --listen " +
            (busy ? "mpi:NAME" : options_.address) + "'" +
            (options_.retry > 0.0 ? "" : ", or give 'retry SECONDS' to wait for it");
        if (options_.retry <= 0.0 || patience.milliseconds_left() == 0) throw Refused(sentence);
        if (!waiting) say("forcenet: " + sentence + options_.waiting());
        waiting = true;
      }
      std::this_thread::sleep_for(Ranks::Seconds(pause));
    }
  });
  if (!fault.empty()) throw Refused(fault);
  ranks_.share(port);
  ranks_.share(door_.path);
  if (ranks_.largest(!door_.server_lives())) {
    door_.leave();
    throw Refused("not all ranks of LAMMPS see the server's file " + door_.path +
                  ": give NAME of mpi:NAME as a path in a folder that all machines see");
  }
  MPI_Comm own;
  MPI_Comm_dup(world_, &own);
  MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN);
  const int code = MPI_Comm_connect(port.c_str(), MPI_INFO_NULL, 0, own, &server_);
  MPI_Comm_free(&own);
  if (ranks_.largest(code != MPI_SUCCESS)) {
    server_ = MPI_COMM_NULL;
    door_.leave();
    throw Refused("the force server at " + options_.address +
                  " does not take the connection: look at its messages");
  }
}

// The server of the same launch, which waits asleep for a knock, and says when it is ready.
void MpiServer::join()
{
  const int leader = other_program(launch_, world_);
  if (leader < 0)
    throw Refused("LAMMPS was started with -mpicolor, but there is no other program in its launch: "
                  "start it as 'mpirun -n L lmp -mpicolor 0 -in FILE : -n R forcenet-md serve"
                  " --model MODEL --listen " + options_.address + " --mpicolor 1'");
  if (is_spoken_to())
    throw Refused("the server of this launch serves one fix external at a time: take the other one"
                  " off first, or start a server by itself and give it as unix:PATH");
  int knock = 1;
  if (ranks_.is_root()) {
    MPI_Request request;
    MPI_Send(&knock, 1, MPI_INT, leader, knock_tag, launch_);
    MPI_Irecv(&knock, 1, MPI_INT, leader, knock_tag, launch_, &request);
    Ranks::wait(request);
  }
  ranks_.largest(0);    // asleep until rank 0 has its answer
  MPI_Intercomm_create(world_, 0, launch_, leader, knock_tag, &server_);
  set_spoken_to(server_);
}

// Each of the server's ranks has atoms of some of ours, or some of them have a rank's of ours.
void MpiServer::find_parts()
{
  std::int64_t me = 0, ours = 0, theirs = 0;
  int number = 0;
  MPI_Comm_rank(world_, &number), me = number;
  MPI_Comm_size(world_, &number), ours = number;
  MPI_Comm_remote_size(server_, &number), theirs = number;
  for (std::int64_t rank = 0; rank < theirs; ++rank)
    if (ours >= theirs ? me * theirs / ours == rank : rank * ours / theirs == me) {
      parts_.emplace_back();
      parts_.back().rank = static_cast<int>(rank);
    }
}

Welcome MpiServer::hello(const Settings &settings)
{
  text_ = hello_text(settings);
  send_head(Order::hello, StepHead(), false);
  if (ranks_.is_root()) send(text_.data(), text_.size(), MPI_CHAR, 0, text_tag);
  for (auto &part : parts_) part.answer.resize(2);
  converse("before the run", true);
  const Welcome welcome = parse_welcome(parts_.front().text);
  velocities_ = welcome.velocities;
  return welcome;
}

void MpiServer::forces(const StepHead &head, bool fresh, int count, const LAMMPS_NS::tagint *id,
                       const int *type, const double *x, const double *v, double *force)
{
  if (fresh) {
    order_.resize(static_cast<std::size_t>(count));
    std::iota(order_.begin(), order_.end(), 0);
    cut(x, 0, count, 0, parts_.size());
  }
  send_head(Order::step, head, fresh);
  for (auto &part : parts_) {
    const int *rows = order_.data() + part.first;
    const auto size = static_cast<std::size_t>(part.count);
    if (fresh) {
      part.labels.resize(2 * size + 1);
      part.labels[2 * size] = part.count;
      for (std::size_t k = 0; k < size; ++k) {
        part.labels[2 * k] = id[rows[k]];
        part.labels[2 * k + 1] = type[rows[k]];
      }
      send(&part.labels[2 * size], 1, MPI_INT64_T, part.rank, count_tag);
      send(part.labels.data(), 2 * size, MPI_INT64_T, part.rank, label_tag);
    }
    part.x.resize((velocities_ ? 6 : 3) * size);
    for (std::size_t k = 0; k < size; ++k) {
      std::copy_n(x + 3 * rows[k], 3, &part.x[3 * k]);
      if (velocities_) std::copy_n(v + 3 * rows[k], 3, &part.x[3 * (size + k)]);
    }
    send(part.x.data(), part.x.size(), MPI_DOUBLE, part.rank, position_tag);
    part.answer.resize(2 + 3 * size);
  }
  converse("at step " + std::to_string(head.timestep), false);
  for (const auto &part : parts_)
    for (int k = 0; k < part.count; ++k)
      std::copy_n(&part.answer[2 + 3 * static_cast<std::size_t>(k)], 3,
                  force + 3 * order_[static_cast<std::size_t>(part.first + k)]);
}

// Rows first to last of `order_` for so many parts: the longest side is cut, and so on, as the
// server cuts (forcenet_md/graph/domains.py).
void MpiServer::cut(const double *x, int first, int last, std::size_t part, std::size_t parts)
{
  if (parts == 1) {
    parts_[part].first = first;
    parts_[part].count = last - first;
    return;
  }
  int longest = 0;
  double most = -1.0;
  for (int d = 0; d < 3 && first < last; ++d) {
    const auto below = [&](int a, int b) { return x[3 * a + d] < x[3 * b + d]; };
    const auto ends = std::minmax_element(order_.begin() + first, order_.begin() + last, below);
    const double length = x[3 * *ends.second + d] - x[3 * *ends.first + d];
    if (length > most) longest = d, most = length;
  }
  const std::size_t lower = parts / 2;
  const int middle = first + static_cast<int>(static_cast<std::size_t>(last - first) * lower / parts);
  std::nth_element(order_.begin() + first, order_.begin() + middle, order_.begin() + last,
                   [&](int a, int b) { return x[3 * a + longest] < x[3 * b + longest]; });
  cut(x, first, middle, part, lower);
  cut(x, middle, last, part + lower, parts - lower);
}

// What the server's rank 0 tells the others. Rank 0 alone sends it.
void MpiServer::send_head(Order order, const StepHead &head, bool fresh)
{
  if (!ranks_.is_root()) return;
  head_ = {static_cast<double>(order), static_cast<double>(head.timestep), double(fresh),
           static_cast<double>(head.periodic), static_cast<double>(text_.size())};
  head_.insert(head_.end(), head.cell, head.cell + 9);
  head_.insert(head_.end(), {static_cast<double>(head.kind), head.dt, double(velocities_)});
  send(head_.data(), head_size, MPI_DOUBLE, 0, head_tag);
}

void MpiServer::send(const void *what, std::size_t count, MPI_Datatype kind, int to, int tag)
{
  sent_.emplace_back();
  MPI_Isend(what, static_cast<int>(count), kind, to, tag, server_, &sent_.back());
}

// Waits until all has been sent and answered; a fault of one of the server's ranks is that of all.
void MpiServer::converse(const std::string &when, bool with_text)
{
  enum { fine = 0, refused = 1, lost = 2 };
  int mine = fine;
  std::string why = "it ended";
  try {
    receive(with_text);
    for (const auto &part : parts_)
      if (part.answer[0] != 0.0) mine = refused;
  } catch (const Lost &fault) {
    mine = lost;
    why = fault.what();
  }
  const int all = ranks_.largest(mine);
  if (all == fine) return;
  if (all == lost) {
    server_ = MPI_COMM_NULL;    // nothing may be asked of it any more
    door_.leave();
    throw Refused("the force server at " + options_.address + " was lost " + when + " (" + why +
                  "): look at its messages, start it again, and LAMMPS from its last restart file");
  }
  const std::string sentence = printable(parts_.front().text);
  close();
  throw Refused(sentence.empty() ? "the server gave no reason" : sentence);
}

// Throws Lost where the server has ended, or does not answer in time.
void MpiServer::receive(bool with_text)
{
  const Deadline deadline(options_.timeout);
  auto next = Ranks::Clock::now() + Ranks::Seconds(glance);
  const auto look = [&] {
    const auto now = Ranks::Clock::now();
    if (!deadline.never() && deadline.milliseconds_left() == 0)
      throw Lost("no answer within " + std::to_string(options_.timeout) + " s");
    if (now < next || launch_ != MPI_COMM_NULL) return;    // of one launch mpirun ends all
    next = now + std::chrono::seconds(1);
    if (!door_.server_lives()) throw Lost("it ended");
  };
  for (auto &request : sent_) Ranks::wait(request, nullptr, look);    // large ones need our help
  sent_.clear();
  for (auto &part : parts_) {
    MPI_Request request;
    MPI_Irecv(part.answer.data(), static_cast<int>(part.answer.size()), MPI_DOUBLE, part.rank,
              answer_tag, server_, &request);
    Ranks::wait(request, &last_, look);
    if (!with_text && part.answer[0] == 0.0) continue;
    part.text.resize(static_cast<std::size_t>(part.answer[1]));
    MPI_Irecv(&part.text[0], static_cast<int>(part.text.size()), MPI_CHAR, part.rank, text_tag,
              server_, &request);
    Ranks::wait(request, nullptr, look);
  }
}

// BYE. The knock goes first, so that the server waits for the next one only.
void MpiServer::close()
{
  int over = 0;
  MPI_Finalized(&over);
  if (server_ == MPI_COMM_NULL || over) return;
  const bool gone = launch_ == MPI_COMM_NULL && !door_.server_lives();
  door_.leave();
  if (ranks_.largest(gone)) return;
  send_head(Order::bye, StepHead(), false);
  for (auto &request : sent_) Ranks::wait(request);
  sent_.clear();
  MPI_Comm_disconnect(&server_);
  if (launch_ != MPI_COMM_NULL) set_spoken_to(MPI_COMM_NULL);
}

void MpiServer::say_gone(MPI_Comm server)
{
  double head[head_size] = {static_cast<double>(Order::gone)};
  MPI_Send(head, head_size, MPI_DOUBLE, 0, head_tag, server);
}

}    // namespace forcenet
