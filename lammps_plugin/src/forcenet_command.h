// The command: forcenet FIX-ID ADDRESS elements E1 E2 … [retry S] [secret FILE] [timeout S]
// [mass_check yes|no], and forcenet FIX-ID off.
#pragma once

#include "link.h"

#include "command.h"

namespace forcenet {

class ForcenetCommand : public LAMMPS_NS::Command {
 public:
  using Command::Command;
  void command(int narg, char **arg) override;

 private:
  LinkOptions parse(int narg, char **arg);
  std::vector<std::string> elements(char **words, int count);
  void apply(LinkOptions &options, const std::string &key, const std::string &value);
  double seconds(const std::string &key, const std::string &value);
  std::string read_secret(const std::string &file, bool wanted);
  [[noreturn]] void stop(const std::string &sentence);
};

}    // namespace forcenet
