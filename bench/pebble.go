package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// pebble is used with the options of its own benchmark program (cmd/pebble),
// which are those of CockroachDB, but for: no compression, as everywhere here;
// blocks of pebble's default size, which is faster for rows as small; a Bloom
// filter on every level, for the sake of misses; and a memtable of a quarter of
// the cache where that is less than 64 MiB, since memtables are memory too.
type pebbleStore struct {
	db    *pebble.DB
	write *pebble.WriteOptions
}

func openPebble(s settings) (engine, error) {
	cache := pebble.NewCache(s.cache)
	defer cache.Unref()
	o := &pebble.Options{
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatNewest,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                16384,
		MemTableSize:                uint64(min(max(s.cache/4, 1<<20), 64<<20)),
		MemTableStopWritesThreshold: 4,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 3 },
		Logger:                      quiet{},
	}
	o.Experimental.EnableColumnarBlocks = func() bool { return true }
	for i := range o.Levels {
		l := &o.Levels[i]
		l.Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
		l.FilterPolicy = bloom.FilterPolicy(10)
		l.FilterType = pebble.TableFilter
	}
	o.FlushSplitBytes = o.TargetFileSizes[0]
	d, err := pebble.Open(s.dir, o)
	if err != nil {
		return nil, err
	}
	p := &pebbleStore{d, pebble.NoSync}
	if s.sync {
		p.write = pebble.Sync
	}
	return p, nil
}

// quiet is a logger that reports only what ends the process.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func (p *pebbleStore) close() error   { return p.db.Close() }
func (p *pebbleStore) worker() worker { return pebbleWorker{p} }

type pebbleWorker struct{ *pebbleStore }

func (w pebbleWorker) get(key []byte, use func(value []byte) error) (bool, error) {
	return pebbleGet(w.db, key, use)
}

func (w pebbleWorker) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	return pebbleScan(w.db, from, backwards, n, use)
}

func (w pebbleWorker) set(key, value []byte) error { return w.db.Set(key, value, w.write) }
func (w pebbleWorker) delete(key []byte) error     { return w.db.Delete(key, w.write) }

func (w pebbleWorker) batch(n int, row func(i int) (key, value []byte)) error {
	b := w.db.NewBatch()
	for i := range n {
		key, value := row(i)
		if err := b.Set(key, value, nil); err != nil {
			return err
		}
	}
	if err := b.Commit(w.write); err != nil {
		return err
	}
	return b.Close()
}

// update does not exist: pebble has no transactions that notice conflicts.
func (w pebbleWorker) update(func(tx transaction) error) error { return errUnsupported }

func (w pebbleWorker) snapshot() (snapshot, error) { return pebbleSnapshot{w.db.NewSnapshot()}, nil }

type pebbleSnapshot struct{ s *pebble.Snapshot }

func (s pebbleSnapshot) get(key []byte, use func(value []byte) error) (bool, error) {
	return pebbleGet(s.s, key, use)
}

func (s pebbleSnapshot) scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	return pebbleScan(s.s, from, backwards, n, use)
}

func (s pebbleSnapshot) close() error { return s.s.Close() }

func pebbleGet(r pebble.Reader, key []byte, use func(value []byte) error) (bool, error) {
	value, closer, err := r.Get(key)
	if err != nil {
		if errors.Is(err, pebble.ErrNotFound) {
			err = nil
		}
		return false, err
	}
	if err := use(value); err != nil {
		_ = closer.Close()
		return true, err
	}
	return true, closer.Close()
}

func pebbleScan(r pebble.Reader, from []byte, backwards bool, n int, use func(key, value []byte) error) error {
	it, err := r.NewIter(nil)
	if err != nil {
		return err
	}
	move := it.Next
	switch {
	case !backwards && from == nil:
		it.First()
	case !backwards:
		it.SeekGE(from)
	case from == nil:
		it.Last()
		move = it.Prev
	default:
		it.SeekLT(from)
		move = it.Prev
	}
	for ; n > 0 && it.Valid(); n-- {
		value, err := it.ValueAndErr()
		if err == nil {
			err = use(it.Key(), value)
		}
		if err != nil {
			_ = it.Close()
			return err
		}
		move()
	}
	return it.Close()
}
