#include "mpi_door.h"

#include "faults.h"

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace forcenet {

namespace {

// As in forcenet_md/server/address.py.
std::string private_folder()
{
  const char *runtime = std::getenv("XDG_RUNTIME_DIR");
  struct stat status;
  if (runtime && runtime[0] == '/' && stat(runtime, &status) == 0 && S_ISDIR(status.st_mode))
    return std::string(runtime) + "/forcenet-md";
  return "/tmp/forcenet-md-" + std::to_string(getuid());
}

// Makes and locks the file, unless another holds it: the server looks now and then whether it is
// held, and for that moment holds it itself. What it says tells one LAMMPS from the next.
int try_lock(const std::string &path)
{
  for (int attempt = 0; attempt < 20; ++attempt) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) throw Lost(path + " cannot be written: " + std::strerror(errno));
    struct stat mine, there;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
      const bool same = fstat(fd, &mine) == 0 && stat(path.c_str(), &there) == 0 &&
          mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
      const std::string name = std::to_string(getpid()) + " " +
          std::to_string(std::chrono::system_clock::now().time_since_epoch().count()) + "\n";
      if (same && mine.st_size == 0 &&
          write(fd, name.data(), name.size()) == static_cast<ssize_t>(name.size()))
        return fd;
      if (same) ::unlink(path.c_str());    // of one that was killed
      ::close(fd);
      continue;
    }
    ::close(fd);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return -1;
}

}    // namespace

MpiDoor::MpiDoor(const std::string &name) :
    path(name.find('/') == std::string::npos ? private_folder() + "/" + name : name)
{
}

std::string MpiDoor::knock()
{
  if (!server_lives()) throw Lost("no server has published a port in " + path);
  knock_ = try_lock(path + ".knock");
  if (knock_ < 0) throw Busy("it serves another LAMMPS");
  std::ifstream stream(path);
  const std::string port{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (port.empty() || !server_lives()) {
    leave();
    throw Lost("no server has published a port in " + path);
  }
  return port;
}

void MpiDoor::leave()
{
  if (knock_ < 0) return;
  ::unlink((path + ".knock").c_str());
  ::close(knock_);
  knock_ = -1;
}

bool MpiDoor::server_lives() const
{
  const int fd = ::open((path + ".lock").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool held = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return held;
}

}    // namespace forcenet
