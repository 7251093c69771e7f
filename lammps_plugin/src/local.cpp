#include "local.h"

#include "faults.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>

#include <unistd.h>

namespace forcenet {

// PROCESS:ADDRESS; a program that an input script starts inherits the variable but not the memory.
std::unique_ptr<Local> Local::find()
{
  const char *variable = std::getenv("FORCENET_MD_LOCAL");
  long process = 0;
  std::uintptr_t address = 0;
  if (!variable || std::sscanf(variable, "%ld:%" SCNuPTR, &process, &address) != 2) return nullptr;
  if (process != static_cast<long>(getpid())) return nullptr;
  return std::unique_ptr<Local>(new Local(reinterpret_cast<const Evaluator *>(address)));
}

Local::Local(const Evaluator *evaluator) : evaluator_(evaluator)
{
  check(evaluator_->open(&handle_, &reply_[0], static_cast<int>(reply_.size())));
}

Welcome Local::hello(const Settings &settings)
{
  const std::string text = hello_text(settings);
  check(evaluator_->hello(handle_, text.data(), static_cast<int>(text.size()), &reply_[0],
                          static_cast<int>(reply_.size())));
  return parse_welcome(reply_.c_str());
}

double Local::shell(double skin)
{
  double cutoff = 0.0;
  check(evaluator_->shell(handle_, skin, &cutoff, &reply_[0], static_cast<int>(reply_.size())));
  return cutoff;
}

std::string Local::forces(LocalStep &step)
{
  check(evaluator_->forces(handle_, &step, &reply_[0], static_cast<int>(reply_.size())));
  return printable(reply_.c_str());
}

void Local::check(int code)
{
  if (code != 0) throw Refused(printable(reply_.c_str()));
}

}    // namespace forcenet
