// SPDX-License-Identifier: Apache-2.0
// Everything a program that trains needs: tensors, autograd, differentiable operations, modules,
// optimizers and data loading. Cheap to include; single headers can be included as well.
#pragma once

#include "pinion/accel/data/data_loader.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/attention.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/layers_image.h"
#include "pinion/nn/module.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_image.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/clip.h"
#include "pinion/optim/grad_scaler.h"
#include "pinion/optim/schedule.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/device.h"
#include "pinion/runtime/graph.h"
#include "pinion/runtime/tensor.h"
