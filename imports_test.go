package db_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/pulkdb/db"

// imports says which packages of this module a package may import. A package
// that is not in the table must be added to it. Tests may import more, but
// nothing above them.
var imports = map[string]string{
	"internal/invariant":  "",
	"internal/paths":      "internal/invariant",
	"internal/testhooks":  "internal/invariant",
	"internal/interleave": "internal/testhooks",
	"internal/workload":   "",
	"internal/vfs":        "internal/invariant internal/paths",
	"internal/crashtest":  "internal/invariant internal/testhooks internal/vfs",
	"internal/arena":      "internal/invariant internal/paths",
	"internal/epoch":      "internal/invariant internal/paths internal/arena",
	"log":                 "internal/invariant internal/paths internal/testhooks internal/vfs",
	"snapshot":            "internal/invariant internal/paths internal/vfs log",
	"pagecache":           "internal/invariant internal/paths internal/testhooks internal/epoch internal/arena internal/vfs log snapshot",
	"tree":                "internal/invariant internal/paths internal/testhooks internal/epoch internal/arena internal/vfs log pagecache",
	".":                   "internal/vfs log pagecache tree",
}

// order is the order in which packages stand above each other, lowest first.
// Examples and commands come last.
var order = []string{
	"internal/invariant", "internal/paths", "internal/testhooks", "internal/interleave", "internal/workload", "internal/vfs", "internal/crashtest", "internal/arena", "internal/epoch",
	"log", "snapshot", "pagecache", "tree", ".",
}

// Imports run one way: examples, cmd -> db -> tree -> pagecache -> snapshot ->
// log -> internal/vfs. And nothing imports the standard library's log, whose
// name package log takes; diagnostics go through log/slog.
func TestImports(t *testing.T) {
	allowed := func(dir, imported string) bool {
		if above(dir) {
			return imported == "." || imported == "internal/workload" || above(imported)
		}
		for name := range strings.FieldsSeq(imports[dir]) {
			if name == imported {
				return true
			}
		}
		return false
	}
	eachImport(t, func(file, dir, imported string, test bool) {
		if imported == "log" {
			t.Errorf("%s imports the standard library's log", file)
		}
		inner, ok := strings.CutPrefix(imported, module)
		if !ok {
			return
		}
		inner = path.Join(".", strings.TrimPrefix(inner, "/"))
		switch {
		case inner == dir: // a test of package x_test
		case test && (above(dir) || rank(inner) < rank(dir)):
		case test:
			t.Errorf("%s: a test imports %s, which stands above it", file, inner)
		case !allowed(dir, inner):
			t.Errorf("%s: %s may not import %s", file, dir, inner)
		}
	})
	for dir := range imports {
		require.Less(t, rank(dir), len(order), "%s is not in the order", dir)
	}
}

// above reports whether dir is an example or a command, which stand above the
// root package.
func above(dir string) bool {
	return strings.HasPrefix(dir, "examples/") || strings.HasPrefix(dir, "cmd/")
}

// rank returns the place of dir in order.
func rank(dir string) int {
	for i, name := range order {
		if name == dir {
			return i
		}
	}
	return len(order)
}

// eachImport calls f for every import of every Go file of the module.
func eachImport(t *testing.T, f func(file, dir, imported string, test bool)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			_, err := os.Stat(filepath.Join(file, "go.mod"))
			nested := err == nil && file != "."
			if nested || name == "testdata" || len(name) > 1 && strings.HasPrefix(name, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		file = filepath.ToSlash(file)
		dir := path.Dir(file)
		if _, known := imports[dir]; !known && !above(dir) {
			t.Errorf("%s: package %s is not in the table", file, dir)
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f(file, dir, imported, strings.HasSuffix(name, "_test.go"))
		}
		return nil
	}))
}

// The example of README.md is code that compiles and runs.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(readme), "```go\n")
	require.True(t, found)
	code, _, found := strings.Cut(rest, "```")
	require.True(t, found)
	tests, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	require.Contains(t, string(tests), "\t"+strings.ReplaceAll(strings.TrimSpace(code), "\n", "\n\t")+"\n}\n")
}
