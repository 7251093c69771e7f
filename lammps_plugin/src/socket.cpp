#include "socket.h"

#include "faults.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0    // systems without it have SO_NOSIGPIPE
#endif

namespace forcenet {

namespace {

void set_option(int fd, int level, int option, int value)
{
  setsockopt(fd, level, option, &value, sizeof(value));
}

Lost no_socket()
{
  return Lost(std::string("no socket can be opened: ") + std::strerror(errno));
}

// Non-blocking, closed on exec, and no signal when the other side has gone.
void prepare(int fd)
{
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
#ifdef SO_NOSIGPIPE
  set_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
}

int open_socket(int family)
{
  const int fd = ::socket(family, SOCK_STREAM, 0);
  if (fd < 0) throw no_socket();
  prepare(fd);
  return fd;
}

constexpr int glance = 10'000;                // ms between two looks at a network that is waited for
constexpr unsigned longest_silence = 120'000;    // ms

// A machine that vanished is noticed after about two minutes, though a step may take for ever.
void keep_alive(int fd)
{
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 6);
#endif
}

// The other half of `keep_alive`, which is silent while sent bytes wait to be acknowledged: the
// system would send them again for a quarter of an hour. TCP_USER_TIMEOUT is not meant for this: it
// also ends the connection to a machine that does acknowledge, but whose server is busy and reads later.
bool is_cut_off(int fd)
{
#ifdef __linux__
  tcp_info now{};
  socklen_t size = sizeof(now);
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &now, &size) == 0 &&
      now.tcpi_state == TCP_ESTABLISHED && now.tcpi_unacked > 0 &&
      now.tcpi_last_ack_recv > longest_silence;
#else
  (void) fd;
  return false;
#endif
}

}    // namespace

Deadline::Deadline(double seconds) : never_(seconds <= 0.0 || seconds > 1e9)
{
  if (!never_)
    at_ = Clock::now() +
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

int Deadline::milliseconds_left() const
{
  if (never_) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(at_ - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, INT_MAX));
}

Address::Address(const std::string &address) : text(address)
{
  if (address.rfind("unix:", 0) == 0) {
    path = address.substr(5);
    if (path.empty()) throw Refused("the address 'unix:' lacks the path of the socket");
    if (path.size() >= sizeof(sockaddr_un::sun_path))
      throw Refused("the socket path '" + path + "' is longer than the " +
                    std::to_string(sizeof(sockaddr_un::sun_path) - 1) +
                    " bytes the system allows: serve on a shorter one");
    return;
  }
  const std::size_t colon = address.rfind(':');
  if (address.rfind("tcp:", 0) == 0 && colon > 4 && colon + 1 < address.size()) {
    host = address.substr(4, colon - 4);
    port = address.substr(colon + 1);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']')
      host = host.substr(1, host.size() - 2);
    // the resolver would take a longer number modulo 65536 and reach another server
    if (port.size() <= 5 && port.find_first_not_of("0123456789") == std::string::npos &&
        std::stoi(port) < 65536)
      return;
  }
  throw Refused("the address '" + address + "' is neither unix:PATH nor tcp:HOST:PORT");
}

void Socket::connect(const Address &address, const Deadline &deadline)
{
  close();
  if (address.door >= 0)
    connect_thread(address.door);
  else if (address.path.empty())
    connect_tcp(address, deadline);
  else
    connect_unix(address, deadline);
}

void Socket::connect_unix(const Address &address, const Deadline &deadline)
{
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, address.path.c_str(), address.path.size() + 1);
  fd_ = open_socket(AF_UNIX);
  if (const int fault = try_connect(&name, sizeof(name), deadline)) {
    close();
    throw Lost(std::strerror(fault));
  }
}

void Socket::connect_tcp(const Address &address, const Deadline &deadline)
{
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int fault = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found))
    throw Lost(gai_strerror(fault));

  int fault = EHOSTUNREACH;
  for (auto *one = found; one && fault; one = one->ai_next) {
    close();
    fd_ = open_socket(one->ai_family);
    fault = try_connect(one->ai_addr, one->ai_addrlen, deadline);
  }
  freeaddrinfo(found);
  if (fault) {
    close();
    throw Lost(std::strerror(fault));
  }
  keep_alive(fd_);
}

// The two ends lie in one process: the number of the other one is all the thread needs.
void Socket::connect_thread(int door)
{
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) throw no_socket();
  for (int end : ends) prepare(end);
  fd_ = ends[0];
  if (::send(door, &ends[1], sizeof(int), MSG_NOSIGNAL) == sizeof(int)) return;
  ::close(ends[1]);
  close();
  throw Lost("it has ended");
}

// 0, or the errno of the failure.
int Socket::try_connect(const void *name, unsigned length, const Deadline &deadline)
{
  if (::connect(fd_, static_cast<const sockaddr *>(name), length) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  try {
    wait(POLLOUT, deadline);
  } catch (const Lost &) {
    return ETIMEDOUT;
  }
  int fault = 0;
  socklen_t size = sizeof(fault);
  getsockopt(fd_, SOL_SOCKET, SO_ERROR, &fault, &size);
  return fault;
}

void Socket::send(const std::string &bytes, const Deadline &deadline)
{
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (n >= 0)
      done += static_cast<std::size_t>(n);
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      wait(POLLOUT, deadline);
    else if (errno != EINTR)
      throw Lost(std::strerror(errno));
  }
}

void Socket::receive(char *into, std::size_t count, const Deadline &deadline)
{
  for (std::size_t done = 0; done < count;) {
    const ssize_t n = ::recv(fd_, into + done, count - done, 0);
    if (n > 0)
      done += static_cast<std::size_t>(n);
    else if (n == 0)
      throw Lost("it was stopped or failed: the connection is closed");
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      wait(POLLIN, deadline);
    else if (errno != EINTR)
      throw Lost(std::strerror(errno));
  }
}

void Socket::wait(short events, const Deadline &deadline) const
{
  for (;;) {
    const int left = deadline.milliseconds_left();
    const bool last = left >= 0 && left <= glance;
    pollfd one{fd_, events, 0};
    const int ready = poll(&one, 1, last ? left : glance);
    if (ready > 0 || (ready < 0 && errno == EINTR)) return;
    if (ready < 0) throw Lost(std::strerror(errno));
    if (last) throw Lost("it did not answer in time");
    if (is_cut_off(fd_)) throw Lost("the network has not reached its machine for two minutes");
  }
}

void Socket::close()
{
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

}    // namespace forcenet
