// SPDX-License-Identifier: Apache-2.0
// A shared library with one function of cuDNN's and one of NCCL's, for tests of what opens such.
extern "C" {

unsigned long cudnnGetVersion() { return 91900; }

int ncclGetVersion(int* version) {
  *version = 22809;
  return 0;
}

int pinion_fake_answer() { return 42; }
}
