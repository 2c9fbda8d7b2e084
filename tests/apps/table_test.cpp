// SPDX-License-Identifier: Apache-2.0
// Tables from CSV files: what is read, and what is refused with which words.
#include "pinion/apps/toy/table.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cmath>
#include <limits>

#include "pinion/apps/toy/csv.h"
#include "pinion/apps/toy/facts.h"
#include "pinion/apps/toy/table_reader.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::toy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class TableTest : public testing::Test {
 protected:
  std::string file(const std::string& text) const {
    const std::string path = dir_ / "t.csv";
    write_file_atomic(path, text);
    return path;
  }
  Table load(const std::string& text, TableOptions options) const {
    options.path = file(text);
    return load_table(options);
  }
  Table load(const std::string& text, const std::string& label) const {
    return load(text, TableOptions{.label = label});
  }
  // What the error says after the folder.
  std::string refusal(const std::string& text, const TableOptions& options,
                      ErrorKind kind = ErrorKind::data) const {
    const Error e = error_of([&] { load(text, options); });
    EXPECT_EQ(e.kind(), kind) << e.what();
    std::string what = e.what();
    for (size_t at; (at = what.find(dir_.path() + "/")) != what.npos;)
      what.erase(at, dir_.path().size() + 1);
    return what;
  }
  std::string refusal(const std::string& text, const std::string& label = "y",
                      ErrorKind kind = ErrorKind::data) const {
    return refusal(text, TableOptions{.label = label}, kind);
  }

  TempDir dir_;
};

TEST_F(TableTest, ReadsAHeaderAndTextLabels) {
  const Table t = load("a,b,kind\n1,2.5,emu\n-3e2,+4,cat\n0,.5,emu\n", "kind");
  EXPECT_THAT(t.columns, ElementsAre("a", "b"));
  EXPECT_THAT(t.classes, ElementsAre("cat", "emu"));
  EXPECT_THAT(t.values, ElementsAre(1, 2.5, -300, 4, 0, 0.5));
  EXPECT_THAT(t.labels, ElementsAre(1, 0, 1));
  EXPECT_EQ(t.rows, 3);
  EXPECT_TRUE(t.named);
  EXPECT_EQ(t.label_name, "kind");
}

TEST_F(TableTest, ReadsWithoutAHeader) {
  for (const char* label : {"2", "-1"}) {
    const Table t = load("5.1,3.5,setosa\n6.2,2.9,virginica\n", label);
    EXPECT_FALSE(t.named);
    EXPECT_EQ(t.rows, 2);
    EXPECT_THAT(t.columns, ElementsAre("column 0", "column 1"));
    EXPECT_THAT(t.classes, ElementsAre("setosa", "virginica"));
  }
  EXPECT_THAT(load("1,2,3\n0,5,6\n", "0").values, ElementsAre(2, 3, 5, 6));
}

TEST_F(TableTest, TakesTheHeaderFlagAtItsWord) {
  EXPECT_EQ(load("2019,2020,y\n1,2,a\n3,4,b\n", "y").rows, 2);
  EXPECT_EQ(load("7,8,9\n1,2,0\n3,4,1\n", TableOptions{.label = "-1", .header = Header::yes}).rows,
            2);
  EXPECT_EQ(load("7,8,9\n1,2,0\n3,4,1\n", TableOptions{.label = "-1", .header = Header::no}).rows,
            3);
}

TEST_F(TableTest, AcceptsWhatSpreadsheetsWrite) {
  const char* const same[] = {
      "a,b,y\r\n1,2,p\r\n3,4,q\r\n",      // CRLF
      "\357\273\277a,b,y\n1,2,p\n3,4,q",  // byte-order mark, no last line end
      "a;b;y\n1;2;p\n3;4;q\n",            // other delimiters
      "a\tb\ty\n1\t2\tp\n3\t4\tq\n",
      "\"a\",\"b\",\"y\"\n\"1\",\"2\",\"p\"\n\"3\",4,\"q\"\n",
      "\n a , b ,y\n\n1, 2 ,p\n\n\r\n3,4, q\n  \n",  // blanks and empty lines
      "\"a\" , \"b\" ,y\n 1,\"2\" ,p\n3,4,q\n",
  };
  for (const char* text : same) {
    SCOPED_TRACE(text);
    const Table t = load(text, "y");
    EXPECT_THAT(t.columns, ElementsAre("a", "b"));
    EXPECT_THAT(t.values, ElementsAre(1, 2, 3, 4));
    EXPECT_THAT(t.classes, ElementsAre("p", "q"));
  }
}

TEST_F(TableTest, KeepsWhatQuotesProtect) {
  const Table t = load("\"a,\"\"1\"\"\",y\n1,\"two\r\nlines, \"\n2,\"\"\"\"\n", "y");
  EXPECT_THAT(t.columns, ElementsAre("a,\"1\""));
  EXPECT_THAT(t.classes, ElementsAre("\"", "two\r\nlines, "));
}

TEST_F(TableTest, NumbersLabelsByValue) {
  const Table t = load("a,y\n1,10\n2,9\n3,9.0\n4,1e1\n", "y");
  EXPECT_THAT(t.classes, ElementsAre("9", "10"));
  EXPECT_THAT(t.labels, ElementsAre(1, 0, 0, 1));
}

TEST_F(TableTest, LeavesColumnsOut) {
  const Table t =
      load("id,a,name,y\n1,2,x,0\n2,3,z,1\n", TableOptions{.label = "y", .ignore = {"id", "2"}});
  EXPECT_THAT(t.columns, ElementsAre("a"));
  EXPECT_THAT(t.values, ElementsAre(2, 3));
}

TEST_F(TableTest, ReadsTheTablesOfScikitLearn) {
  const Table t = load("3,2,malignant,benign\n1,2,0\n3,4,1\n5,6,1\n", "-1");
  EXPECT_EQ(t.rows, 3);
  EXPECT_THAT(t.classes, ElementsAre("benign", "malignant"));
  EXPECT_THAT(t.labels, ElementsAre(1, 0, 0));
}

TEST_F(TableTest, ReadsNumbersToTheLastBit) {
  const Table t = load(
      "a,y\n0.1,0\n1e-320,1\n1e-400,1\n0.0000000000000000000000000000001e-400,1\n"
      "1700000000.123456,0\n",
      "y");
  EXPECT_THAT(t.values, ElementsAre(0.1, 1e-320, 0, 0, 1700000000.123456));
}

struct Refused {
  const char* name;
  const char* text;
  const char* what;
};

class RefusedTable : public TableTest, public testing::WithParamInterface<Refused> {};

TEST_P(RefusedTable, SaysWhereAndWhy) { EXPECT_EQ(refusal(GetParam().text), GetParam().what); }

INSTANTIATE_TEST_SUITE_P(
    Tables, RefusedTable,
    testing::Values(
        Refused{"MissingCell", "a,b,y\n1,2,p\n3,,q\n",
                "t.csv:3:3: column 'b': expected a value, got a missing cell"},
        Refused{"MissingLabel", "a,b,y\n1,2,p\n3,4,\n",
                "t.csv:3:5: column 'y': expected a value, got a missing cell"},
        Refused{"ShortRow", "a,b,y\n1,2,p\n3,4\n",
                "t.csv:3:3: expected 3 cells as in the header, got 2"},
        Refused{"LongRow", "a,b,y\n1,2,p,9\n",
                "t.csv:2:7: expected 3 cells as in the header, got 4"},
        Refused{"Text", "a,b,y\n1,2,p\n3,four,q\n",
                "t.csv:3:3: column 'b': expected a number, got the text 'four' "
                "(--ignore leaves a column out)"},
        Refused{"NumberWithTail", "a,b,y\n1,2kg,p\n",
                "t.csv:2:3: column 'b': expected a number, got the text '2kg' "
                "(--ignore leaves a column out)"},
        Refused{"DecimalComma", "a;b;y\n1,5;2;p\n",
                "t.csv:2:1: column 'a': expected a number, got the text '1,5' "
                "(--ignore leaves a column out)"},
        Refused{"Nan", "a,b,y\n1,nan,p\n",
                "t.csv:2:3: column 'b': expected a finite number, got 'nan'"},
        Refused{"Infinity", "a,b,y\n-inf,1,p\n",
                "t.csv:2:1: column 'a': expected a finite number, got '-inf'"},
        Refused{"Overflow", "a,b,y\n1,1e999,p\n",
                "t.csv:2:3: column 'b': expected a finite number, got '1e999'"},
        Refused{"OneClass", "a,b,y\n1,2,p\n3,4,p\n",
                "t.csv: column 'y': expected at least two classes, got 'p' in all 2 rows"},
        Refused{"NoRows", "a,b,y\n", "t.csv:1:1: expected rows of data, got none"},
        Refused{"Empty", "", "t.csv:1:1: expected rows of data, got an empty file"},
        Refused{"OnlyEmptyLines", "\n\r\n\n",
                "t.csv:1:1: expected rows of data, got an empty file"},
        Refused{"NoFeatures", "y\np\nq\n",
                "t.csv:1:1: expected 1 to 100000 columns of features beside the label, got 0"},
        Refused{"SameNames", "a,a,y\n1,2,p\n",
                "t.csv:1:3: expected a different name for every column, got 'a' twice"},
        Refused{"OpenQuote", "a,b,y\n1,2,p\n3,\"4,q\n5,6,p\n",
                "t.csv:3:3: expected a closing quote, got the end of the file"},
        Refused{"TextAfterQuote", "a,b,y\n\"1\"2,2,p\n",
                "t.csv:2:4: expected a delimiter after the closing quote, got '2'"},
        Refused{"Utf16",
                "\xff\xfe"
                "a",
                "t.csv:1:1: expected UTF-8 text, got UTF-16: save the table as UTF-8"},
        Refused{"Latin1Header",
                "gr\xf6\xdf"
                "e,y\n1,p\n",
                "t.csv:1:1: expected UTF-8 text in the header, got 'gr\\xf6\\xdfe'"},
        Refused{"Latin1Label", "a,y\n1,gr\xfcn\n",
                "t.csv:2:3: column 'y': expected UTF-8 text, got 'gr\\xfcn'"},
        Refused{"LineInsideQuotes", "a,b,y\n1,\"x\ny\",p\n",
                "t.csv:2:3: column 'b': expected a number, got the text 'x\\ny' "
                "(--ignore leaves a column out)"},
        Refused{"AfterAMultiLineCell", "a,b,y\n1,2,\"p\nq\"\n3,?,r\n",
                "t.csv:4:3: column 'b': expected a number, got the text '?' "
                "(--ignore leaves a column out)"}),
    [](const auto& row) { return std::string(row.param.name); });

TEST_F(TableTest, RefusesNulBytes) {
  using namespace std::string_literals;
  EXPECT_EQ(refusal("a,b,y\n1,2\0,p\n"s), "t.csv:2:4: expected text, got a NUL byte");
  EXPECT_EQ(refusal("a,b,y\n1,\"2\0\",p\n"s), "t.csv:2:5: expected text, got a NUL byte");
}

TEST_F(TableTest, RefusesColumnsThatAreNotThere) {
  EXPECT_EQ(refusal("a,b,y\n1,2,p\n", "z", ErrorKind::usage),
            "--label: expected a column of t.csv ('a', 'b', 'y') or its number, got 'z'");
  EXPECT_EQ(
      refusal("1,2,0\n", "z", ErrorKind::usage),
      "--label: expected a number from -3 to 2, as t.csv has 3 columns and no header, got 'z'");
  EXPECT_THAT(refusal("a,y\n1,2\n", "2", ErrorKind::usage), HasSubstr("got '2'"));
  EXPECT_THAT(refusal("a,y\n1,2\n", TableOptions{.label = "y", .ignore = {"q"}}, ErrorKind::usage),
              HasSubstr("--ignore: expected a column"));
  EXPECT_THAT(refusal("a,y\n1,2\n", "", ErrorKind::usage), HasSubstr("--label"));
}

TEST_F(TableTest, RefusesAQuantityAsClasses) {
  std::string text = "a,y\n";
  for (int i = 0; i < 1500; ++i) text += "1," + std::to_string(i) + ".5\n";
  EXPECT_EQ(refusal(text),
            "t.csv:1002:3: column 'y': expected classes, got more than 1000 different "
            "values (is this a quantity?)");
}

TEST_F(TableTest, RefusesLongLines) {
  const std::string kilobytes(1 << 20, '1');
  EXPECT_THAT(refusal("a,y\n" + kilobytes + ",p\n"),
              HasSubstr("t.csv:2:1: expected lines of at most 1048576 bytes"));
  EXPECT_THAT(refusal(std::string(10 << 20, 'x')),
              HasSubstr("t.csv:1:1: expected lines of at most"));
  EXPECT_THAT(refusal("a,y\n1,\"" + std::string(3 << 20, '\n') + "\"\n"),
              HasSubstr("t.csv:2:1: expected lines of at most"));
  // The longest line there may be.
  const std::string padding((1 << 20) - 3, ' ');
  EXPECT_EQ(load("a,y\n1" + padding + ",p\n2,q\n", "y").rows, 2);
}

TEST_F(TableTest, RefusesWhatIsNoFile) {
  const auto kind_of = [](const std::string& path) {
    return error_of([&] { load_table({.path = path, .label = "y"}); }).kind();
  };
  EXPECT_EQ(kind_of(dir_ / "absent.csv"), ErrorKind::missing);
  EXPECT_EQ(kind_of(dir_.path()), ErrorKind::data);
  ASSERT_EQ(::mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  EXPECT_EQ(kind_of(dir_ / "fifo"), ErrorKind::data);  // and does not wait for a writer
}

// Records that straddle every boundary of the reader's blocks come out whole.
TEST_F(TableTest, ReadsFilesOfManyBlocks) {
  std::string text = "a,b,\"y\"\n";
  constexpr int kRows = 60000;
  for (int i = 0; i < kRows; ++i)
    text += i % 3 ? std::to_string(i) + ",0.5,q\n"
                  : "\"" + std::to_string(i) + "\",0.5,\"p\"\"\n\"\r\n";
  ASSERT_GT(text.size(), size_t{3} * 256 * 1024);
  const Table t = load(text, "y");
  ASSERT_EQ(t.rows, kRows);
  for (int i = 0; i < kRows; ++i) {
    ASSERT_EQ(t.values[static_cast<size_t>(i) * 2], i);
    ASSERT_EQ(t.labels[static_cast<size_t>(i)], i % 3 ? 1 : 0);
  }
}

TEST_F(TableTest, FailedReadsAreIoErrors) {
  const std::string path = file("a,y\n1,2\n");
  FaultyFs faulty;
  const FsGuard guard(faulty);
  faulty.fail_call("read", 1, EIO);
  EXPECT_EQ(error_of([&] { load_table({.path = path, .label = "y"}); }).kind(), ErrorKind::io);
}

TEST(ParseNumber, TakesDecimalNumbersOnly) {
  double v = 0;
  for (const char* text : {"1", "-1", "+1", "1.", ".5", "1e5", "1E-5", "00012", "-0"})
    EXPECT_EQ(parse_number(text, v), Parsed::number) << text;
  for (const char* text : {"0x10", "1,5", "1 2", "--1", "+-1", "+", "-", "e5", "1e", "true", "NA"})
    EXPECT_EQ(parse_number(text, v), Parsed::text) << text;
  for (const char* text : {"nan", "NaN", "inf", "-Infinity", "1e400", "-1e400"})
    EXPECT_EQ(parse_number(text, v), Parsed::not_finite) << text;
  EXPECT_EQ(parse_number("", v), Parsed::empty);
}

TEST(StratifiedSplit, HoldsOutTheSameShareOfEveryClass) {
  std::vector<int64_t> labels;
  for (int i = 0; i < 1000; ++i) labels.push_back(i % 10 == 0 ? 1 : 0);
  labels.push_back(2);  // a class of one row stays in training
  const Split split = stratified_split(labels, 0.2, 7);
  EXPECT_EQ(split.test.size(), 200u);
  EXPECT_EQ(split.train.size(), 801u);
  int64_t of_one = 0;
  for (const int64_t row : split.test) of_one += labels[static_cast<size_t>(row)] == 1;
  EXPECT_EQ(of_one, 20);
  std::vector<int64_t> all = split.train;
  all.insert(all.end(), split.test.begin(), split.test.end());
  std::sort(all.begin(), all.end());
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], static_cast<int64_t>(i));
  EXPECT_EQ(stratified_split(labels, 0.2, 7).test, split.test);
  EXPECT_NE(stratified_split(labels, 0.2, 8).test, split.test);
  EXPECT_TRUE(stratified_split(labels, 0, 7).test.empty());
}

TEST_F(TableTest, StandardisesOnTheRowsOfTraining) {
  const Table t = load("a,b,c,y\n1,5,1e9,0\n3,5,1000000002,1\n100,9,0,1\n", "y");
  const Preprocessing facts = fit_preprocessing(t, {0, 1});
  EXPECT_THAT(facts.mean, ElementsAre(2, 5, 1000000001));
  EXPECT_THAT(facts.std, ElementsAre(1, 1, 1));
  EXPECT_THAT(features_of(t, facts, {1, 2}).values<float>(),
              ElementsAre(1, 0, 1, 98, 4, -1000000001.0f));
  EXPECT_THAT(labels_of(t, {2, 0}).values<int64_t>(), ElementsAre(1, 0));
}

TEST_F(TableTest, RefusesNumbersWithoutAVariance) {
  const Table t = load("a,y\n1e308,0\n-1e308,1\n", "y");
  const Error e = error_of([&] { fit_preprocessing(t, {0, 1}); });
  EXPECT_EQ(e.kind(), ErrorKind::data);
  EXPECT_THAT(e.what(), HasSubstr("column 'a'"));
}

class PredictionTable : public TableTest {
 protected:
  PredictionTable() { facts_ = {{"a", "b"}, true, "y", {"1", "2"}, {0, 0}, {1, 1}}; }
  Table load_for(const std::string& text, TableOptions options = {}) {
    options.path = file(text);
    return load_table_for(facts_, options, &unused_);
  }
  std::string refusal_for(const std::string& text, const TableOptions& options = {}) {
    const Error e = error_of([&] { load_for(text, options); });
    EXPECT_EQ(e.kind(), ErrorKind::data);
    return std::string(e.what()).substr(dir_.path().size() + 1);
  }
  Preprocessing facts_;
  std::vector<std::string> unused_;
};

TEST_F(PredictionTable, FindsColumnsByName) {
  const Table t = load_for("b,id,a\n1,77,2\n3,78,4\n");
  EXPECT_THAT(t.values, ElementsAre(2, 1, 4, 3));
  EXPECT_TRUE(t.labels.empty());
  EXPECT_THAT(unused_, ElementsAre("id"));
  EXPECT_THAT(load_for("y,b,a\n2.0,1,2\n1,3,4\n").labels, ElementsAre(1, 0));
}

TEST_F(PredictionTable, TakesColumnsByPositionWithoutAHeader) {
  EXPECT_THAT(load_for("1,2\n3,4\n").values, ElementsAre(1, 2, 3, 4));
  const Table t = load_for("1,2,2\n3,4,1\n", {.label = "-1"});
  EXPECT_THAT(t.values, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(t.labels, ElementsAre(1, 0));
}

TEST_F(PredictionTable, SaysWhatDiffers) {
  EXPECT_EQ(
      refusal_for("a,c\n1,2\n"),
      "t.csv:1:1: expected the columns of the model, got none called 'b'; the model has no column "
      "called 'c'");
  EXPECT_EQ(refusal_for("1,2,3\n"),
            "t.csv:1:1: expected 2 columns of features for the model, got 3 (--label names a label "
            "column)");
  EXPECT_EQ(refusal_for("a,b,y\n1,2,3\n"),
            "t.csv:2:5: column 'y': expected a class of the model ('1', '2'), got '3'");
}

TEST_F(PredictionTable, FactsSurviveTheFile) {
  facts_ = {{"größe", "a \"b\",\n"}, true, "y", {"ja", "nein"}, {1.0 / 3, -1e300}, {5e-324, 2}};
  const std::string path = dir_ / "m.safetensors";
  const auto save = [&](const SafetensorsMetadata& metadata, const Shape& fc1) {
    const std::vector<NamedTensor> tensors = {{"fc1.weight", Tensor::zeros(fc1)},
                                              {"fc2.weight", Tensor::zeros({2, 7})}};
    save_safetensors(path, tensors, metadata);
  };
  save(metadata_of(facts_), {7, 2});
  const SavedModel got = read_facts(path);
  EXPECT_EQ(got.hidden, 7);
  EXPECT_EQ(got.facts.columns, facts_.columns);
  EXPECT_EQ(got.facts.classes, facts_.classes);
  EXPECT_EQ(got.facts.mean, facts_.mean);
  EXPECT_EQ(got.facts.std, facts_.std);
  EXPECT_EQ(got.facts.label, "y");
  EXPECT_TRUE(got.facts.named);

  const auto refused = [&](const char* what) {
    const Error e = error_of([&] { read_facts(path); });
    EXPECT_EQ(e.kind(), ErrorKind::checkpoint) << e.what();
    EXPECT_THAT(e.what(), HasSubstr(what));
  };
  save(metadata_of(facts_), {7, 3});
  refused("fc1.weight [hidden,2]");
  save({}, {7, 2});
  refused("without its metadata");
  save({{"simple_train", "{"}}, {7, 2});
  refused("simple_train");
  save({{"simple_train", "{\"columns\":7}"}}, {7, 2});
  refused("'columns' is missing or of another type");
  facts_.std[0] = 0;
  save(metadata_of(facts_), {7, 2});
  refused("a deviation above 0");
}

TEST(Predictions, AreCsv) {
  const Preprocessing facts{{"a"}, true, "y", {"no", "yes, really"}, {0}, {1}};
  EXPECT_EQ(predictions_csv(facts, Tensor::of<float>({0.25, 0.75, 1, 0}, {2, 2})),
            "prediction,p(no),\"p(yes, really)\"\n\"yes, really\",0.25,0.75\nno,1,0\n");
}

}  // namespace
}  // namespace pinion::toy
