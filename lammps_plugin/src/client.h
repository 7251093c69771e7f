// The client's side of the conversation with `forcenet-md serve`; runs on rank 0 only.
#pragma once

#include "protocol.h"
#include "socket.h"

#include <functional>
#include <string>

namespace forcenet {

struct ClientOptions {
  std::string address;
  int door = -1;            // where the model is in this very process: see Address
  std::string secret;       // empty: none
  double retry = 0.0;       // seconds to wait for a lost server; 0: not at all
  double timeout = 0.0;     // seconds to wait for one answer; 0: for ever

  // What a sentence about a lost server ends in while it is waited for.
  std::string waiting() const
  {
    return " (waiting up to " + std::to_string(static_cast<long>(retry)) + " s)";
  }
};

class Client {
 public:
  using Say = std::function<void(const std::string &)>;

  // `say` tells the user that a server is waited for, and that it is back.
  Client(const ClientOptions &options, Say say);
  ~Client();

  // Both connect first where there is no connection, and with `retry` wait for a lost server.
  // Both throw Refused.
  const Welcome &hello(const Settings &settings);
  void evaluate(const StepMessage &step, Answer &answer);

 private:
  void patiently(const std::string &when, const std::function<void()> &attempt);
  void connect();
  void authenticate(const std::string &challenge);
  void introduce();
  std::string expect(Type type, std::size_t limit, const Deadline &deadline);
  void send(const std::string &message, const Deadline &deadline);
  std::string lost(const std::string &when, const std::string &why) const;

  ClientOptions options_;
  Say say_;
  Address address_;
  Socket socket_;
  std::string settings_;    // HELLO's payload, to say again after a reconnection
  Welcome welcome_;
  bool welcomed_ = false;
};

}    // namespace forcenet
