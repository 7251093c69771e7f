// Where LAMMPS finds a server of another MPI launch: three files, which forcenet_md/server/mpi_door.py
// has the other half of.
#pragma once

#include <string>

namespace forcenet {

// NAME has the port of the server, who holds the lock of NAME.lock as long as it lives; NAME.knock
// is locked by the LAMMPS that is served, or wants to be.
class MpiDoor {
 public:
  // `name`: a path if it has a slash, else a file in the user's private folder.
  explicit MpiDoor(const std::string &name);
  ~MpiDoor() { leave(); }
  MpiDoor(const MpiDoor &) = delete;
  MpiDoor &operator=(const MpiDoor &) = delete;

  // Leaves a knock, so that the server waits for us; returns its port. Throws Lost.
  std::string knock();
  void leave();    // takes the knock away
  bool server_lives() const;

  std::string path;

 private:
  int knock_ = -1;
};

}    // namespace forcenet
