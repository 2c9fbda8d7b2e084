// SPDX-License-Identifier: Apache-2.0
// Questions on a terminal: menus, yes or no, and lines of text.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace pinion::apps {

bool on_terminal();  // whether standard input and output are one

// The number of the choice, from 0. The arrows, j and k move, digits jump, Enter takes. Throws
// Error (usage) when the user stops (Ctrl-C, Ctrl-D) or the input ends; so do the others.
size_t ask_menu(std::string_view question, const std::vector<std::string>& choices,
                size_t standard);

bool ask_yes_no(std::string_view question, bool standard);

// One line; an empty one is `standard`. Asks again for as long as `check` returns what is wrong.
std::string ask_text(std::string_view question, std::string_view standard,
                     const std::function<std::string(const std::string&)>& check);

}  // namespace pinion::apps
