// Command quickstart indexes the source of Go's standard library in a store,
// opens the store again, and answers questions about it:
//
//	go run ./examples/quickstart                      # some answers
//	go run ./examples/quickstart io.Copy time.Time.Add  # yours
//
// A second run finds the store and updates only what changed in the source.
//
// Look into index.go for how a store is read and written; source.go only parses
// Go, and progress.go draws the bar.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pulkdb/db"
)

func main() {
	dir := flag.String("dir", defaultDir(), "directory of the store")
	prefix := flag.String("prefix", "strings.Trim", "print the declarations that begin so")
	flag.Parse()
	names := flag.Args()
	if len(names) == 0 {
		names = []string{"fmt.Println", "net/http.Client.Do", "io.EOF", "time.Duration"}
	}
	if err := run(*dir, *prefix, names); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(dir, prefix string, names []string) error {
	sources, err := goSources()
	if err != nil {
		return err
	}
	fmt.Printf("from %s into %s\n", sources, dir)

	// Fill the store, and close it.
	store, err := db.Open(dir, nil)
	if err != nil {
		return err
	}
	stats, err := update(store, sources)
	if err != nil {
		store.Close()
		return err
	}
	if err := store.Close(); err != nil {
		return err
	}

	// Open it again, and ask.
	start := time.Now()
	store, err = db.Open(dir, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	stats.reopen = time.Since(start)

	for _, name := range names {
		if err := lookUp(store, name); err != nil {
			return err
		}
	}
	if err := list(store, prefix); err != nil {
		return err
	}
	if err := measure(store, stats); err != nil {
		return err
	}
	if stats.diskBytes, err = dirBytes(dir); err != nil {
		return err
	}
	stats.print()
	return store.Close()
}

// lookUp prints what the store knows of a declaration.
func lookUp(store *db.DB, name string) error {
	value, err := store.Get([]byte(name))
	switch {
	case errors.Is(err, db.ErrNotFound):
		fmt.Printf("\n%s\n    not found\n", name)
		return nil
	case err != nil:
		return err
	}
	fmt.Printf("\n%s\n    %s\n", name, strings.ReplaceAll(string(value), "\n", "\n    "))
	return nil
}

// list prints the first declarations whose name begins with prefix.
func list(store *db.DB, prefix string) error {
	fmt.Printf("\n%s...\n", prefix)
	const most = 10
	rows := store.ScanPrefix([]byte(prefix))
	n := 0
	for name, value := range rows.All() {
		if n++; n > most {
			fmt.Printf("    and more\n")
			break
		}
		signature, _, _ := strings.Cut(string(value), "\n")
		fmt.Printf("    %-22s %s\n", name, signature)
	}
	return rows.Err()
}

// measure reads the whole store, first in order and then the declarations by
// name, and notes what that took.
func measure(store *db.DB, stats *stats) error {
	var names [][]byte
	start := time.Now()
	rows := store.Scan(nil, nil)
	for key, value := range rows.All() {
		stats.keys++
		stats.bytes += len(key) + len(value)
		if isDeclaration(key) {
			names = append(names, append([]byte(nil), key...))
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	stats.scan = time.Since(start)

	start = time.Now()
	var value []byte
	for _, name := range names {
		var err error
		if value, err = store.GetTo(value[:0], name); err != nil {
			return err
		}
	}
	stats.get, stats.gets = time.Since(start), len(names)
	return nil
}

// stats is what the table at the end shows.
type stats struct {
	files     int // found
	changed   int // of these, new or changed, and so stored
	stale     int // files in the store that were removed from it first
	written   int // bytes of keys and values
	update    time.Duration
	reopen    time.Duration
	keys      int // in the store
	bytes     int // of keys and values
	gets      int
	get       time.Duration // for all gets
	scan      time.Duration // for all keys
	diskBytes int64
}

func (s *stats) print() {
	rate := func(n int, d time.Duration) float64 { return float64(n) / max(d, 1).Seconds() }
	mb := func(n int) float64 { return float64(n) / 1e6 }
	fmt.Printf(`
source files   %10d    %d stored, %d replaced or removed
written        %10.1f MB in %.2f s: %.1f MB/s, each batch on disk
keys           %10d
bytes          %10.1f MB
on disk        %10.1f MB
reopen         %10.1f ms
scan           %10.0f keys/s
get            %10.0f keys/s
`,
		s.files, s.changed, s.stale,
		mb(s.written), s.update.Seconds(), mb(s.written)/max(s.update, 1).Seconds(),
		s.keys, mb(s.bytes), mb(int(s.diskBytes)), s.reopen.Seconds()*1e3,
		rate(s.keys, s.scan), rate(s.gets, s.get))
}

// defaultDir is where the store is if nobody says otherwise.
func defaultDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "pulk-quickstart")
}

// dirBytes returns the size of all files in dir.
func dirBytes(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
