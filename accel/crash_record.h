// SPDX-License-Identifier: Apache-2.0
// The record of the signal that killed a program, for the launcher that started it, with a trace of
// where the program was.
#pragma once

namespace pinion::accel {

// From now on SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT and SIGQUIT (which a launcher sends to a
// rank that hangs) write a trace to standard error, and to the file that PINION_ERROR_FILE names
// the fields of record_error() with "class":"signal" and "backtrace":["program(+0x12a0)[0x…]",…].
// Then they end the process as they always do. Their handler allocates nothing and takes no locks.
//
// Does nothing when there is no such variable, nor for a signal that has a handler already. A
// second call does nothing.
void record_crashes();

}  // namespace pinion::accel
