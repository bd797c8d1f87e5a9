// What the kernels of a pass must know about its rows, brought to the device in one copy.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "cuda/kernels/launch.h"
#include "cuda/memory.h"

namespace pythia_rt::cuda {

class PassTables {
 public:
  // Queues the copy; the stream must be done with the one before. Whether memory moved: launches
  // that were recorded with the old addresses are worth nothing then.
  bool load(const Batch& batch, Stream stream);

  const Places& places() const { return places_; }
  // The cache formats of the batch's sequences, each once.
  const std::vector<KvFormat>& formats() const { return formats_; }

 private:
  Places places_{};
  std::vector<KvFormat> formats_;
  std::vector<QueryTile> tiles_;
  Growing<HostMemory> on_host_;
  Growing<DeviceMemory> on_device_;
};

}  // namespace pythia_rt::cuda
