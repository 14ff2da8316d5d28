package db_test

import (
	"encoding/binary"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

const (
	millionKeys       = 1_000_000
	millionKeyBytes   = 16
	millionValueBytes = 100
	millionDataBytes  = millionKeys * (millionKeyBytes + millionValueBytes)
)

// millionKey is the i-th random key; all differ.
func millionKey(dst []byte, i int) []byte {
	// A bijection of 64 bits, then as much again.
	x := uint64(i) + 1
	for range 2 {
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
		dst = binary.BigEndian.AppendUint64(dst, x)
	}
	return dst
}

// millionValue is what the i-th key holds in a generation.
func millionValue(dst []byte, i, generation int) []byte {
	r := rand.NewPCG(uint64(i), uint64(generation))
	for n := millionValueBytes; n > 0; n -= 8 {
		var p [8]byte
		binary.LittleEndian.PutUint64(p[:], r.Uint64())
		dst = append(dst, p[:min(n, 8)]...)
	}
	return dst
}

// TestMillion loads 1,000,000 random keys without waiting for a sync of each,
// opens the store again, and reads all back by key and in order both ways: with
// a cache of a quarter of the data, and with all in memory. It then overwrites
// every key once and reads again. It takes minutes and writes much, so it runs
// only when PULK_MILLION=1; it logs rates and judges only the data.
func TestMillion(t *testing.T) {
	if os.Getenv("PULK_MILLION") != "1" {
		t.Skip("PULK_MILLION=1 runs it")
	}
	for _, test := range []struct {
		name  string
		cache int64
	}{
		{"quarter", millionDataBytes / 4},
		{"memory", 1 << 30},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			m := &million{dir: dir, opts: &db.Options{CacheSize: test.cache, Durability: db.DurabilityNone}}
			m.open(t)
			m.write(t, "load", 0)
			m.reopen(t)
			m.read(t, 0)
			m.scan(t, 0)
			m.write(t, "overwrite", 1)
			m.openAsKilled(t, 1)
			m.reopen(t)
			m.read(t, 1)
			m.scan(t, 1)
			require.NoError(t, m.db.Close())
		})
	}
}

// A million is the store of TestMillion.
type million struct {
	dir  string
	opts *db.Options
	db   *db.DB
}

// timed logs how long one pass over all keys took.
func timed(t testing.TB, what string, n int, pass func()) {
	start := time.Now()
	pass()
	took := time.Since(start)
	t.Logf("%-12s %8.3f s  %10.0f/s", what, took.Seconds(), float64(n)/took.Seconds())
}

func (m *million) open(t testing.TB) {
	start := time.Now()
	d, err := db.Open(m.dir, m.opts)
	require.NoError(t, err)
	t.Logf("%-12s %8.3f s", "open", time.Since(start).Seconds())
	m.db = d
}

func (m *million) reopen(t testing.TB) {
	start := time.Now()
	require.NoError(t, m.db.Close())
	t.Logf("%-12s %8.3f s", "close", time.Since(start).Seconds())
	t.Logf("%-12s %8.1f MB, %.2f of the data", "on disk", float64(dirBytes(t, m.dir))/1e6,
		float64(dirBytes(t, m.dir))/millionDataBytes)
	m.open(t)
}

// openAsKilled opens a copy of the files of the open store: what a kill -9 would
// have left.
func (m *million) openAsKilled(t testing.TB, generation int) {
	killed := &million{dir: t.TempDir(), opts: m.opts}
	require.NoError(t, os.CopyFS(killed.dir, os.DirFS(m.dir)))
	start := time.Now()
	d, err := db.Open(killed.dir, killed.opts)
	require.NoError(t, err)
	t.Logf("%-12s %8.3f s, %d updates replayed", "open, killed", time.Since(start).Seconds(), d.Metrics().Pages.ReplayedOnOpen)
	for i := range millionKeys / 100 {
		got, err := d.Get(millionKey(nil, i))
		require.NoError(t, err)
		require.Equal(t, millionValue(nil, i, generation), got)
	}
	require.NoError(t, d.Close())
}

func (m *million) write(t testing.TB, what string, generation int) {
	order := rand.New(rand.NewPCG(1, uint64(generation))).Perm(millionKeys)
	written := m.written()
	timed(t, what, millionKeys, func() {
		var key, value []byte
		for _, i := range order {
			key, value = millionKey(key[:0], i), millionValue(value[:0], i, generation)
			if err := m.db.Set(key, value); err != nil {
				require.NoError(t, err)
			}
		}
		require.NoError(t, m.db.Sync())
	})
	t.Logf("%-12s %8.2f bytes per user byte", "written", float64(m.written()-written)/millionDataBytes)
}

// written returns the bytes written to the log since Open.
func (m *million) written() int64 { return int64(m.db.Metrics().Disk.BytesWritten) }

func (m *million) read(t testing.TB, generation int) {
	order := rand.New(rand.NewPCG(2, uint64(generation))).Perm(millionKeys)
	timed(t, "get", millionKeys, func() {
		var key, value, got []byte
		for _, i := range order {
			key, value = millionKey(key[:0], i), millionValue(value[:0], i, generation)
			var err error
			got, err = m.db.GetTo(got[:0], key)
			if err != nil || string(got) != string(value) {
				require.FailNow(t, "wrong value", "key %x: %x, %v", key, got, err)
			}
		}
	})
}

func (m *million) scan(t testing.TB, generation int) {
	index := make(map[[millionKeyBytes]byte]int, millionKeys)
	for i := range millionKeys {
		index[[millionKeyBytes]byte(millionKey(nil, i))] = i
	}
	for _, forward := range []bool{true, false} {
		it := m.db.Scan(nil, nil)
		what, first, next := "scan", it.First, it.Next
		if !forward {
			what, first, next = "scan back", it.Last, it.Prev
		}
		timed(t, what, millionKeys, func() {
			n := 0
			var last, value []byte
			for ok := first(); ok; ok = next() {
				if n > 0 && (string(last) < string(it.Key())) != forward {
					require.FailNow(t, "out of order", "%x after %x", it.Key(), last)
				}
				last = append(last[:0], it.Key()...)
				i, known := index[[millionKeyBytes]byte(last)]
				value = millionValue(value[:0], i, generation)
				if !known || string(value) != string(it.Value()) {
					require.FailNow(t, "wrong row", "%x: %x", last, it.Value())
				}
				n++
			}
			require.NoError(t, it.Err())
			require.Equal(t, millionKeys, n)
		})
		require.NoError(t, it.Close())
	}
}

// dirBytes returns the size of all files under dir.
func dirBytes(t testing.TB, dir string) (n int64) {
	require.NoError(t, filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	}))
	return n
}
