// A server on other MPI ranks: each LAMMPS rank sends its atoms straight to the server's ranks that
// compute them, and gets their forces from there. forcenet_md/server/mpi.py is the other half.
//
// Every function is collective over LAMMPS's ranks and fails on all of them alike.
#pragma once

#include "client.h"
#include "mpi_door.h"
#include "protocol.h"
#include "ranks.h"

#include "lmptype.h"

#include <mpi.h>

#include <string>
#include <vector>

namespace forcenet {

class MpiServer {
 public:
  // Whether the address is `mpi:NAME`.
  static bool is_meant(const std::string &address) { return address.rfind("mpi:", 0) == 0; }

  // `launch`: all ranks of a launch of several programs, or MPI_COMM_NULL where the server has a
  // launch of its own. Throws Refused, as all that follows does.
  MpiServer(const ClientOptions &options, MPI_Comm world, MPI_Comm launch, Client::Say say);
  ~MpiServer() { close(); }
  MpiServer(const MpiServer &) = delete;
  MpiServer &operator=(const MpiServer &) = delete;

  // LAMMPS ends without more words, perhaps on this rank alone: rank 0 says so.
  static void say_gone(MPI_Comm server);

  Welcome hello(const Settings &settings);
  // `fresh`: atoms or their order may have changed. x, v, force: [count][3]; v goes to a server
  // that asked for velocities.
  void forces(const StepHead &head, bool fresh, int count, const LAMMPS_NS::tagint *id,
              const int *type, const double *x, const double *v, double *force);

 private:
  // The atoms of this rank that one of the server's ranks computes.
  struct Part {
    int rank = 0;
    int first = 0, count = 0;            // in `order_`
    std::vector<std::int64_t> labels;    // [count][2] id and type
    std::vector<double> x;               // [count][3], then velocities if wanted
    std::vector<double> answer;          // 0, or 1 and the length of a text; then [count][3]
    std::string text;
  };
  enum class Order { hello = 1, step = 2, bye = 3, gone = 4 };

  void connect(const Client::Say &say);
  void join();
  void find_parts();
  void cut(const double *x, int first, int last, std::size_t part, std::size_t parts);
  void send_head(Order order, const StepHead &head, bool fresh);
  void send(const void *what, std::size_t count, MPI_Datatype kind, int to, int tag);
  void converse(const std::string &when, bool with_text);
  void receive(bool with_text);
  void close();

  ClientOptions options_;
  Ranks ranks_;
  MPI_Comm world_, launch_;
  MpiDoor door_;
  MPI_Comm server_ = MPI_COMM_NULL;    // its ranks are the remote ones
  std::vector<Part> parts_;
  std::vector<int> order_;             // rows of LAMMPS, part by part
  std::vector<double> head_;           // rank 0
  std::string text_;                   // rank 0
  bool velocities_ = false;            // the server wants them
  std::vector<MPI_Request> sent_;
  Ranks::Seconds last_{0.0};           // how long the last answer took
};

}    // namespace forcenet
