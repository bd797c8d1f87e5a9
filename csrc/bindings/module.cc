// The extension module pythia_rt._core. It converts types and releases the GIL; policy lives in
// Python, arithmetic in the core.
#include "bindings/module.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of pythia_rt: packing, the decoder, the sampler.";
  pythia_rt::bind_machine(module);
  pythia_rt::bind_formats(module);
  pythia_rt::bind_spec(module);
  pythia_rt::bind_sampling(module);
  pythia_rt::bind_model(module);
  pythia_rt::bind_session(module);
  pythia_rt::bind_passes(module);
  pythia_rt::bind_distributions(module);
  pythia_rt::bind_run(module);
  pythia_rt::bind_writing(module);
  pythia_rt::bind_prefixes(module);
  pythia_rt::bind_calibration(module);
}
