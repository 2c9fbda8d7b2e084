// SPDX-License-Identifier: Apache-2.0
// Weight files: a module's parameters and buffers as safetensors under PyTorch's names, so that
// safetensors.torch.load_file() and Module.load_state_dict() take them, and the other way round.
// Filters of convolutions are there in PyTorch's order, [K,C,R,S], and here as [K,R,S,C].
#pragma once

#include <string>

#include "pinion/nn/module.h"
#include "pinion/runtime/safetensors.h"

namespace pinion::nn {

// Replaces the file at `path` atomically. A tensor tied under two names is written under both.
// Metadata gets "format": "pt", which PyTorch's tools look for, unless it has a format of its own.
void save_weights(Module& module, const std::string& path, SafetensorsMetadata metadata = {});

// Reads a file into the module's tensors, wherever they live; floating types are converted. Names
// and shapes must match exactly, both ways: throws Error (checkpoint) that names the file and the
// tensor, and then changes nothing. What the reader refuses it refuses with its own kinds (missing,
// data, io).
void load_weights(Module& module, const std::string& path);

// What a weight file holds of a module: the tensors of state(), filters as copies in PyTorch's
// order.
std::vector<NamedTensor> file_tensors(Module& module);
// The way back, as strict as load_state(). `who` opens the error texts.
void load_file_tensors(Module& module, const std::vector<NamedTensor>& tensors, const char* who);

}  // namespace pinion::nn
