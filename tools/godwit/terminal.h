// Output for people: tables, progress, one-line errors.
#pragma once

#include <string>
#include <vector>

namespace godwit::tools {

// Whether stdout is a terminal.
bool stdout_is_terminal();
// Columns of the terminal, 80 where there is none.
unsigned terminal_columns();

// "godwit: TEXT" on stderr, made printable: always one line.
void print_error(const std::string& text);

// Left-aligned columns, two spaces between them; the first row is the header.
std::string format_table(const std::vector<std::vector<std::string>>& rows);
// A bar inside `columns` characters: from `start` to `start + length` of `total`; at least one character
// wide.
std::string format_bar(double start, double length, double total, unsigned columns);

}  // namespace godwit::tools
