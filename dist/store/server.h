// SPDX-License-Identifier: Apache-2.0
// The store on a TCP port: one thread, which serves from construction to destruction. Whoever has
// not proved to know the secret within two seconds is dropped, and said so in the log, once in ten
// seconds at most.
#pragma once

#include <memory>
#include <string>

#include "pinion/dist/store/secret.h"

namespace pinion::dist {

class StoreServer {
 public:
  struct Options {
    std::string address = "127.0.0.1:0";  // exactly this one; port 0: a free one
    std::string run_id = "pinion";
    int ranks = 1;  // up to four connections each, and a few for launchers
  };
  // Throws Error (config) when the address cannot be listened on.
  StoreServer(const StoreSecret& secret, const Options& options);
  ~StoreServer();
  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;

  const std::string& address() const { return address_; }  // with the port that it has
  int port() const;

 private:
  class Loop;
  std::string address_;
  std::unique_ptr<Loop> loop_;
};

}  // namespace pinion::dist
