package db_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/vfs"
)

// The tests in this file take away what a store needs: space on the disk, file
// descriptors, memory, processors, and readers who close what they opened.

// A smallDisk is a file system in memory with so many bytes of space: what exceeds
// it is written as far as it fits.
type smallDisk struct {
	*vfs.Mem
	space atomic.Int64
	full  atomic.Int64 // writes that found no space
	kinds sync.Map     // of the files they were to: their extensions
}

func (d *smallDisk) inject(op vfs.Op) error {
	if op.Kind != vfs.OpWrite {
		return nil
	}
	used, before := int64(0), int64(0)
	names, _ := d.ReadDir("store")
	for _, name := range names {
		size, _, _ := d.Stat(filepath.Join("store", name))
		if used += size; filepath.Join("store", name) == filepath.Clean(op.Name) {
			before = size
		}
	}
	grows := op.Offset + int64(op.Size) - before
	if grows <= 0 || used+grows <= d.space.Load() {
		return nil
	}
	d.full.Add(1)
	d.kinds.Store(filepath.Ext(strings.TrimSuffix(op.Name, ".tmp")), true)
	fits := max(0, int64(op.Size)-(used+grows-d.space.Load()))
	return &vfs.Partial{N: int(fits), Err: syscall.ENOSPC}
}

// An acknowledgement says what a store must hold after one write failed: all that
// was acknowledged, and of the key whose write failed either value.
type acknowledgement struct {
	rows    map[string]string
	pending row
}

// write writes until a write fails, and returns its error.
func (a *acknowledgement) write(d *db.DB, writes int) error {
	for n := range writes {
		a.pending = row{fmt.Sprintf("key %03d", n*7919%400), strings.Repeat(fmt.Sprint(n, " "), 20+n%50)}
		if err := d.Set([]byte(a.pending.key), []byte(a.pending.value)); err != nil {
			return err
		}
		a.rows[a.pending.key] = a.pending.value
	}
	a.pending = row{}
	return nil
}

func (a *acknowledgement) check(t *testing.T, d *db.DB, when string) {
	t.Helper()
	for key, value := range a.rows {
		got, err := d.Get([]byte(key))
		require.NoError(t, err, "%s: %s", when, key)
		if key != a.pending.key || string(got) != a.pending.value {
			require.Equal(t, value, string(got), "%s: %s", when, key)
		}
	}
}

// TestDiskFull fills disks of all sizes, so that every kind of write meets the end
// of one. The error says so; nothing is written any more and reads go on; and with
// space again the next Open finds all that was acknowledged, and goes on.
func TestDiskFull(t *testing.T) {
	step := int64(3 << 10)
	if short() {
		step = 16 << 10
	}
	disks, whileOpening, kinds := 0, 0, map[any]bool{}
	for space := int64(0); space < 620<<10; space += step {
		when := fmt.Sprint("space ", space)
		disk := &smallDisk{Mem: vfs.NewMem()}
		disk.space.Store(space)
		opts := db.Options{Logger: quiet().Logger, CacheSize: 1 << 20}.Tiny().On(vfs.NewFault(disk.Mem, disk.inject))
		a := acknowledgement{rows: map[string]string{}}
		d, err := db.Open("store", opts)
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC, when)
			whileOpening++
		} else {
			err := a.write(d, 3000)
			require.ErrorIs(t, err, db.ErrFailed, when)
			require.ErrorIs(t, err, syscall.ENOSPC, when)
			require.ErrorIs(t, d.Delete([]byte("key 000")), db.ErrFailed, when)
			a.check(t, d, when)
			require.ErrorIs(t, d.Close(), db.ErrFailed, when)
		}
		require.NotZero(t, disk.full.Load(), when)
		disk.space.Store(1 << 40)
		d, err = db.Open("store", opts)
		require.NoError(t, err, when)
		a.check(t, d, when+", opened again")
		require.NoError(t, d.Set([]byte("more"), []byte("space")))
		require.NoError(t, d.CheckTree())
		require.NoError(t, d.Close())
		disk.kinds.Range(func(kind, _ any) bool { kinds[kind] = true; return true })
		disks++
	}
	if !short() {
		require.Equal(t, map[any]bool{"": true, ".seg": true, ".snap": true, ".free": true}, kinds, "files of every kind met a full disk")
	}
	t.Logf("%d disks, %d of them too small for Open", disks, whileOpening)
}

// TestNoFileDescriptors has opens of files fail for a while, as they do when a
// process has too many. Reads say so and work again afterwards. A write that needed
// a file fails for good, and the next Open finds all that was acknowledged.
func TestNoFileDescriptors(t *testing.T) {
	rounds := 20
	if short() {
		rounds = 3
	}
	for round := range rounds {
		mem := vfs.NewMem()
		var exhausted atomic.Bool
		opts := db.Options{Logger: quiet().Logger, CacheSize: 128 << 10, Durability: db.DurabilityNone}.Tiny().On(vfs.NewFault(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpOpen && exhausted.Load() {
				return syscall.EMFILE
			}
			return nil
		}))
		d, err := db.Open("store", opts)
		require.NoError(t, err)
		a := acknowledgement{rows: map[string]string{}}
		require.NoError(t, a.write(d, 500+100*round))
		require.NoError(t, d.Sync())
		exhausted.Store(true)
		for key, value := range a.rows {
			if got, err := d.Get([]byte(key)); err != nil {
				require.ErrorIs(t, err, syscall.EMFILE)
			} else {
				require.Equal(t, value, string(got))
			}
		}
		late := maps.Clone(a.rows)
		var failed error
		for n := 0; n < 3000 && failed == nil; n++ {
			key, value := fmt.Sprintf("late %04d", n), strings.Repeat("late", 20)
			if failed = d.Set([]byte(key), []byte(value)); failed == nil {
				failed = d.Sync()
			}
			if failed == nil {
				late[key] = value
			}
		}
		require.ErrorIs(t, failed, syscall.EMFILE)
		exhausted.Store(false)
		for key, value := range late {
			got, err := d.Get([]byte(key))
			require.NoError(t, err)
			require.Equal(t, value, string(got))
		}
		_ = d.Close() // it has failed, or it had not come to that
		d, err = db.Open("store", opts)
		require.NoError(t, err)
		for key, value := range late {
			got, err := d.Get([]byte(key))
			require.NoError(t, err)
			require.Equal(t, value, string(got))
		}
		require.NoError(t, d.Close())
	}
}

// TestFewFilesAreOpen reads all of a store of many segments: not all of their files
// are open at once.
func TestFewFilesAreOpen(t *testing.T) {
	if short() {
		t.Skip("counts files, which the race detector does not change, and takes it a minute")
	}
	fault := vfs.NewFault(vfs.NewMem(), nil)
	opts := db.Options{Logger: quiet().Logger, CacheSize: 128 << 10, Durability: db.DurabilityNone}.Tiny().On(fault)
	d, err := db.Open("store", opts)
	require.NoError(t, err)
	defer d.Close()
	const rows = 8000 // each with pages of its own, which is the quickest way to fill segments
	for n := range rows {
		require.NoError(t, d.Set(fmt.Appendf(nil, "%08d", n*7919%rows), []byte(strings.Repeat("v", 2500))))
	}
	segments := d.Metrics().Space.Segments
	require.Greater(t, segments, 280, "the test needs more segments")
	found := 0
	for range d.Scan(nil, nil).All() {
		found++
	}
	require.Equal(t, rows, found)
	require.LessOrEqual(t, fault.OpenFiles(), int64(270), "of %d segments", segments)
}

// TestLittleMemory runs a store under a memory limit that leaves the collector
// little room beside the cache: it is slower, and works, and takes no more memory than
// the cache may, though it holds several times that.
func TestLittleMemory(t *testing.T) {
	before := debug.SetMemoryLimit(40 << 20)
	defer debug.SetMemoryLimit(before)
	d := open(t, t.TempDir(), &db.Options{CacheSize: 2 << 20, Durability: db.DurabilityNone, Compression: db.CompressionZstd})
	const rows = 30_000
	value := func(n int) string { return strings.Repeat(fmt.Sprint(n, " "), 40) }
	most := int64(0)
	pages := func() int64 {
		m := d.Metrics().Memory
		return m.Used - m.Buffers
	}
	for n := range rows {
		require.NoError(t, d.Set(fmt.Appendf(nil, "%08d", n*7919%rows), []byte(value(n*7919%rows))))
		if n%100 == 0 {
			most = max(most, pages())
		}
	}
	n := 0
	for key, got := range d.Scan(nil, nil).All() {
		require.Equal(t, fmt.Sprintf("%08d", n), string(key))
		require.Equal(t, value(n), string(got))
		n++
	}
	require.Equal(t, rows, n)
	most = max(most, pages())
	t.Logf("at most %d KiB of pages", most>>10)
	require.Less(t, most, int64(3<<20), "of pages, in a cache of 2 MiB")
}

// TestTenThousandGoroutines has ten thousand wait for the disk, and for each other,
// at once.
func TestTenThousandGoroutines(t *testing.T) {
	d := open(t, t.TempDir(), nil)
	goroutines := 10_000
	if short() {
		goroutines = 5000 // the race detector allows some 8,000
	}
	var wait sync.WaitGroup
	var wrong atomic.Int64
	counter := []byte("counter")
	for g := range goroutines {
		wait.Go(func() {
			key, value := fmt.Appendf(nil, "%d", g), fmt.Appendf(nil, "value %d", g)
			err := d.Set(key, value)
			if err == nil && g%100 == 0 {
				err = d.Update(func(tx *db.Tx) error {
					now, err := tx.Get(counter)
					if err != nil && !errors.Is(err, db.ErrNotFound) {
						return err
					}
					return tx.Set(counter, append(now, '+'))
				})
			}
			got, errGet := d.Get(key)
			if err = errors.Join(err, errGet); err != nil || string(got) != string(value) {
				wrong.Add(1)
				t.Errorf("%s = %q, %v", key, got, err)
			}
		})
	}
	wait.Wait()
	require.Zero(t, wrong.Load())
	got, err := d.Get(counter)
	require.NoError(t, err)
	require.Len(t, got, goroutines/100)
}

// TestIteratorLeftOpen has a reader that never closes its iterator while all is
// overwritten again and again. It costs the versions that the iterator sees, once;
// it goes on seeing them; and when it is closed they go.
func TestIteratorLeftOpen(t *testing.T) {
	mem := vfs.NewMem()
	d, err := db.Open("store", db.Options{Logger: quiet().Logger, CacheSize: 256 << 10, Durability: db.DurabilityNone}.Tiny().On(mem))
	require.NoError(t, err)
	defer d.Close()
	const rows = 3000
	data := int64(0)
	value := func(n, round int) []byte { return fmt.Appendf(nil, "%d/%d%s", n, round, strings.Repeat("v", 80)) }
	set := func(round int) {
		data = 0
		for n := range rows {
			key := fmt.Appendf(nil, "%06d", n*7919%rows)
			data += int64(len(key) + len(value(n, round)))
			require.NoError(t, d.Set(key, value(n, round)))
		}
	}
	set(0)
	left := d.Scan(nil, nil)
	require.True(t, left.Next())
	rounds := 25
	if short() {
		rounds = 4
	}
	for round := 1; round <= rounds; round++ {
		set(round)
		require.LessOrEqual(t, d.Metrics().Versions.KeptBytes, 2*data, "round %d", round)
	}
	var keys []string
	for ok := left.First(); ok; ok = left.Next() {
		keys = append(keys, string(left.Key()))
		require.Contains(t, string(left.Value()), "/0v")
	}
	require.Len(t, keys, rows)
	require.True(t, slices.IsSorted(keys))
	require.NoError(t, left.Close())
	require.Eventually(t, func() bool { return d.Metrics().Versions.KeptBytes == 0 }, 30*time.Second, 10*time.Millisecond)
}
