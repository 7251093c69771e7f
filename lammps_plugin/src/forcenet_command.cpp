#include "forcenet_command.h"

#include "checks.h"
#include "faults.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "modify.h"

#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include <unistd.h>

using namespace LAMMPS_NS;

namespace forcenet {

namespace {

constexpr char usage[] =
    "the command is: forcenet FIX-ID unix:PATH|tcp:HOST:PORT|mpi:NAME elements E1 E2 ..."
    " [retry SECONDS] [timeout SECONDS] [secret FILE] [mass_check yes|no]";

bool is_symbol(const std::string &word)
{
  if (word.empty() || word.size() > 3) return false;
  for (unsigned char c : word)
    if (!std::isalpha(c)) return false;
  return true;
}

// `forcenet-md lammps` has the model in a thread of this very process, and says so in a variable. A
// program that an input script starts inherits the variable but not the thread: hence the process.
int door_of_this_process()
{
  const char *variable = std::getenv("FORCENET_MD_IN_PROCESS");
  long process = 0;
  int door = -1;
  if (!variable || std::sscanf(variable, "%ld:%d", &process, &door) != 2) return -1;
  return process == static_cast<long>(getpid()) ? door : -1;
}

std::string strip(const std::string &text)
{
  const char *space = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(space);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(space) - first + 1);
}

}    // namespace

void ForcenetCommand::command(int narg, char **arg)
{
  if (narg < 2) stop(usage);
  if (!domain->box_exist) stop("there is no simulation box yet: give the command after it");
  const std::string id = arg[0];
  const std::string link_id = Link::id_for(id);

  const bool off = narg == 2 && std::string(arg[1]) == "off";
  Fix *external = find_fix(lmp, id);
  if (!external || std::string(external->style) != "external")
    stop("there is no fix external of the id " + id + ": define 'fix " + id +
         " all external pf/callback 1 1' first");
  if (off && !find_fix(lmp, link_id)) stop("fix " + id + " has no force server to take off");

  LinkOptions options;
  if (!off) options = parse(narg, arg);
  if (find_fix(lmp, link_id)) modify->delete_fix(link_id);
  if (off) return;

  // After `clear` a LAMMPS may have forgotten the fix styles of its plugins.
  (*modify->fix_map)[Link::style_name] = [](LAMMPS *l, int n, char **a) -> Fix * {
    return new Link(l, n, a);
  };
  modify->add_fix(link_id + " all " + Link::style_name + " " + id, 0);
  static_cast<Link *>(find_fix(lmp, link_id))->open(options);
}

LinkOptions ForcenetCommand::parse(int narg, char **arg)
{
  LinkOptions options;
  options.client.address = arg[1];
  std::string secret_file;
  for (int i = 2; i < narg;) {
    const std::string key = arg[i++];
    if (key == "elements") {
      options.elements = elements(arg + i, narg - i);
      i += atom->ntypes;
    } else if (key == "retry" || key == "timeout" || key == "secret" || key == "mass_check") {
      if (i == narg) stop("the keyword " + key + " lacks its value");
      const std::string value = arg[i++];
      if (key == "secret")
        secret_file = value;
      else
        apply(options, key, value);
    } else {
      stop("'" + key + "' is not a keyword (there are as many elements as atom types, here " +
           std::to_string(atom->ntypes) + "); " + usage);
    }
  }
  if (options.elements.empty()) stop(usage);
  if (MpiServer::is_meant(options.client.address) && !secret_file.empty())
    stop("a server at mpi:NAME knows no secret: leave the keyword secret out");
  options.client.door = door_of_this_process();    // rank 0 alone has one
  if (options.client.door >= 0) options.client.retry = 0.0;    // what ended here is not coming back
  options.client.secret = read_secret(secret_file, options.client.door < 0);
  return options;
}

std::vector<std::string> ForcenetCommand::elements(char **words, int count)
{
  std::vector<std::string> symbols;
  for (int i = 0; i < count && i < atom->ntypes && is_symbol(words[i]); ++i)
    symbols.emplace_back(words[i]);
  if (static_cast<int>(symbols.size()) < atom->ntypes)
    stop("after 'elements' there must be one element symbol for each of the " +
         std::to_string(atom->ntypes) + " atom types, not " + std::to_string(symbols.size()));
  return symbols;
}

void ForcenetCommand::apply(LinkOptions &options, const std::string &key, const std::string &value)
{
  if (key == "retry") {
    options.client.retry = seconds(key, value);
  } else if (key == "timeout") {
    options.client.timeout = seconds(key, value);
  } else {
    if (value != "yes" && value != "no") stop("mass_check takes yes or no, not '" + value + "'");
    options.mass_check = value == "yes";
  }
}

double ForcenetCommand::seconds(const std::string &key, const std::string &value)
{
  char *end = nullptr;
  const double number = std::strtod(value.c_str(), &end);
  if (value.empty() || *end != '\0' || !std::isfinite(number) || number < 0.0)
    stop(key + " takes a number of seconds, not '" + value + "'");
  return number;
}

// Of the file, else of the environment. Rank 0 speaks to the server: only it needs to have it.
std::string ForcenetCommand::read_secret(const std::string &file, bool wanted)
{
  std::string secret;
  const std::string fault = Ranks(world).on_root([&] {
    const char *variable = std::getenv("FORCENET_MD_SECRET");
    if (!wanted || (file.empty() && !variable)) return;
    if (file.empty()) {
      secret = strip(variable);
    } else {
      std::ifstream stream(file, std::ios::binary);
      secret = strip({std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()});
      if (!stream) throw Refused("the secret file '" + file + "' cannot be read");
    }
    if (secret.empty())
      throw Refused("the secret of " +
                    (file.empty() ? "the variable FORCENET_MD_SECRET" : "the file '" + file + "'") +
                    " is empty");
  });
  if (!fault.empty()) stop(fault);
  return secret;
}

void ForcenetCommand::stop(const std::string &sentence)
{
  error->all(FLERR, "forcenet: " + sentence);
}

}    // namespace forcenet
