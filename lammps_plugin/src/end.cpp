// A library of its own, which LAMMPS closes where it ends: the plugin itself is never unloaded.
// See launch.h.
namespace {

void (*at_end)() = nullptr;

__attribute__((destructor)) void end()
{
  if (at_end) at_end();
}

}    // namespace

extern "C" __attribute__((visibility("default"))) void forcenet_at_end(void (*function)())
{
  at_end = function;
}
