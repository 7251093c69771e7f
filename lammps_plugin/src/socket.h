// A stream socket that writes and reads whole messages, with time limits.
#pragma once

#include <chrono>
#include <string>

namespace forcenet {

using Clock = std::chrono::steady_clock;

// A moment after which waiting ends; by default never.
class Deadline {
 public:
  Deadline() = default;
  explicit Deadline(double seconds);    // from now; 0 or less: never
  bool never() const { return never_; }
  int milliseconds_left() const;    // for poll(): -1 never, 0 past

 private:
  bool never_ = true;
  Clock::time_point at_{};
};

// `unix:PATH` or `tcp:HOST:PORT` ([HOST] for IPv6). Throws Refused if it is neither.
struct Address {
  explicit Address(const std::string &text);
  // A thread of this process; it takes one end of a socket pair for each number sent to `door`.
  explicit Address(int door) : text("this process"), door(door) {}
  std::string text, path, host, port;    // path is empty for tcp
  int door = -1;                         // none where it is negative
};

class Socket {
 public:
  Socket() = default;
  ~Socket() { close(); }
  Socket(const Socket &) = delete;
  Socket &operator=(const Socket &) = delete;

  bool is_open() const { return fd_ >= 0; }
  // Each throws Lost, with the reason, where the other side is not there, gone or late.
  void connect(const Address &address, const Deadline &deadline);
  void send(const std::string &bytes, const Deadline &deadline);
  void receive(char *into, std::size_t count, const Deadline &deadline);
  void close();

 private:
  void wait(short events, const Deadline &deadline) const;
  void connect_unix(const Address &address, const Deadline &deadline);
  void connect_tcp(const Address &address, const Deadline &deadline);
  void connect_thread(int door);
  int try_connect(const void *name, unsigned length, const Deadline &deadline);
  int fd_ = -1;
};

}    // namespace forcenet
