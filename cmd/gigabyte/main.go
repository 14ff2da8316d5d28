// Command gigabyte stores one very large value in a store with a small cache, reads
// it back, replaces it and deletes it, and prints what that costs in time and in
// resident memory (VmHWM, set back before each step; 0 where the system does not
// tell). Beside the value there are small keys in use: how many of their reads had
// to wait for a page afterwards shows what the value has thrown out of the cache.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/workload"
)

var (
	sizeMiB  = flag.Int64("size", 1024, "`MiB` of the value")
	cacheMiB = flag.Int64("cache", 64, "Options.CacheSize in `MiB`")
	hotKeys  = flag.Int("hot", 100_000, "small `keys` in use, 16+100 bytes")
	dir      = flag.String("dir", "", "`directory` for the store, removed again (default: a temporary one)")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gigabyte:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	path, err := os.MkdirTemp(*dir, "pulk-gigabyte-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(path)
	store, err := db.Open(filepath.Join(path, "store"), &db.Options{CacheSize: *cacheMiB << 20})
	if err != nil {
		return err
	}
	g := gigabyte{store: store, path: path, size: *sizeMiB << 20, key: []byte("value")}
	defer func() {
		if cerr := store.Close(); err == nil {
			err = cerr
		}
	}()
	fmt.Printf("%-24s %8s %9s %12s %10s\n", "step", "seconds", "MiB/s", "peak RSS MiB", "disk MiB")
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"load small keys", g.load},
		{"write", func() error { return g.write(1) }},
		{"read", g.read},
		{"replace", func() error { return g.write(2) }},
		{"read", g.read},
		{"read small keys", g.hot},
		{"delete", func() error { return store.Delete(g.key) }},
	} {
		if err := g.step(s.name, s.do); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Printf("of %d reads of small keys %d waited for a page\n", *hotKeys, g.misses)
	return nil
}

// A gigabyte is the store with its value.
type gigabyte struct {
	store  *db.DB
	path   string
	size   int64
	key    []byte
	sum    [sha256.Size]byte // of what was written last
	misses uint64
}

func (g *gigabyte) step(name string, do func() error) error {
	workload.ResetPeak()
	start := time.Now()
	if err := do(); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	disk, err := workload.DiskBytes(g.path)
	rate := ""
	if name == "write" || name == "read" || name == "replace" {
		rate = fmt.Sprintf("%.0f", float64(g.size)/(1<<20)/took)
	}
	fmt.Printf("%-24s %8.2f %9s %12.1f %10.0f\n", name, took, rate, float64(workload.PeakBytes())/(1<<20), float64(disk)/(1<<20))
	return err
}

func (g *gigabyte) load() error {
	value := bytes.Repeat([]byte{'v'}, 100)
	b := g.store.NewBatch()
	for i := range *hotKeys {
		if err := b.Set(workload.AppendKey(nil, i), value); err != nil {
			return err
		}
		if b.Len() == 1000 || i == *hotKeys-1 {
			if err := b.Commit(); err != nil {
				return err
			}
			b.Reset()
		}
	}
	return g.hot()
}

// hot reads all small keys and counts those reads that waited for a page.
func (g *gigabyte) hot() error {
	before := g.store.Metrics().Pages.Misses
	var buffer []byte
	for i := range *hotKeys {
		var err error
		if buffer, err = g.store.GetTo(buffer[:0], workload.AppendKey(nil, i)); err != nil {
			return err
		}
	}
	g.misses = g.store.Metrics().Pages.Misses - before
	return nil
}

func (g *gigabyte) write(seed uint64) error {
	source := &source{state: seed, sum: sha256.New()}
	if err := g.store.SetFrom(g.key, source, g.size); err != nil {
		return err
	}
	source.sum.Sum(g.sum[:0])
	return nil
}

func (g *gigabyte) read() error {
	r, err := g.store.GetReader(g.key)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	if n, err := io.Copy(sum, r); err != nil || n != g.size {
		return fmt.Errorf("%d bytes of %d: %w", n, g.size, err)
	}
	if [sha256.Size]byte(sum.Sum(nil)) != g.sum {
		return fmt.Errorf("it is not what was written")
	}
	return nil
}

// A source gives bytes that do not shrink, and sums them up.
type source struct {
	state uint64
	sum   hash.Hash
}

func (s *source) Read(p []byte) (int, error) {
	var b [8]byte
	for i := 0; i < len(p); i += len(b) {
		s.state++
		binary.LittleEndian.PutUint64(b[:], workload.Mix(s.state))
		copy(p[i:], b[:])
	}
	s.sum.Write(p)
	return len(p), nil
}
