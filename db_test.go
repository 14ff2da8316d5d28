package db_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// open opens dir and closes it when the test ends, unless the test did.
func open(t testing.TB, dir string, opts *db.Options) *db.DB {
	t.Helper()
	d, err := db.Open(dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// openMemory opens an empty store that is in memory only.
func openMemory(t testing.TB) *db.DB {
	t.Helper()
	return open(t, "", &db.Options{InMemory: true})
}

// fill sets keys, each to itself in capitals.
func fill(t testing.TB, d *db.DB, keys ...string) {
	t.Helper()
	for _, key := range keys {
		require.NoError(t, d.Set([]byte(key), bytes.ToUpper([]byte(key))))
	}
}

func TestGet(t *testing.T) {
	d := openMemory(t)
	long := bytes.Repeat([]byte("k"), db.MaxKeyBytes)
	tests := []struct {
		name       string
		key, value []byte
	}{
		{"plain", []byte("key"), []byte("value")},
		{"empty value", []byte("no value"), []byte{}},
		{"empty key", []byte{}, []byte("of the empty key")},
		{"zero bytes", []byte{0, 0}, []byte{0}},
		{"high bytes", []byte{0xff, 0xff}, []byte{0xff}},
		{"longest key", long, []byte("long")},
		{"value of several pages", []byte("large"), bytes.Repeat([]byte("large"), 1<<16)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := d.Get(test.key)
			require.ErrorIs(t, err, db.ErrNotFound)
			require.NoError(t, d.Set(test.key, test.value))
			value, err := d.Get(test.key)
			require.NoError(t, err)
			require.NotNil(t, value)
			require.True(t, bytes.Equal(test.value, value))
			found, err := d.Has(test.key)
			require.NoError(t, err)
			require.True(t, found)
		})
	}
}

func TestNilIsEmpty(t *testing.T) {
	d := openMemory(t)
	require.NoError(t, d.Set(nil, nil))
	value, err := d.Get([]byte{})
	require.NoError(t, err)
	require.Equal(t, []byte{}, value)
	value, err = d.Get(nil)
	require.NoError(t, err)
	require.Equal(t, []byte{}, value)
	require.NoError(t, d.Delete(nil))
	found, err := d.Has([]byte{})
	require.NoError(t, err)
	require.False(t, found)
}

func TestGetTo(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a")
	dst := append(make([]byte, 0, 16), "dst:"...)

	got, err := d.GetTo(dst, []byte("a"))
	require.NoError(t, err)
	require.Equal(t, "dst:A", string(got))
	require.Same(t, &dst[0], &got[0], "there was room")

	got, err = d.GetTo(dst, []byte("absent"))
	require.ErrorIs(t, err, db.ErrNotFound)
	require.Equal(t, "dst:", string(got))

	got, err = d.GetTo(dst, make([]byte, db.MaxKeyBytes+1))
	require.ErrorIs(t, err, db.ErrTooLarge)
	require.Equal(t, "dst:", string(got))

	require.NoError(t, d.Close())
	got, err = d.GetTo(dst, []byte("a"))
	require.ErrorIs(t, err, db.ErrClosed)
	require.Equal(t, "dst:", string(got))
}

func TestDelete(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a", "b")
	require.NoError(t, d.Delete([]byte("a")))
	require.NoError(t, d.Delete([]byte("a")), "an absent key is no error")
	_, err := d.Get([]byte("a"))
	require.ErrorIs(t, err, db.ErrNotFound)
	value, err := d.Get([]byte("b"))
	require.NoError(t, err)
	require.Equal(t, "B", string(value))
	fill(t, d, "a")
	found, err := d.Has([]byte("a"))
	require.NoError(t, err)
	require.True(t, found)
}

func TestCompareAndSwap(t *testing.T) {
	absent := []byte(nil)
	empty := []byte{}
	tests := []struct {
		name             string
		before, old, new []byte
		swapped          bool
		current, after   []byte
	}{
		{"absent, as expected", absent, nil, []byte("new"), true, nil, []byte("new")},
		{"absent, a value expected", absent, []byte("old"), []byte("new"), false, nil, absent},
		{"absent, empty expected", absent, empty, []byte("new"), false, nil, absent},
		{"value as expected", []byte("old"), []byte("old"), []byte("new"), true, nil, []byte("new")},
		{"other value", []byte("is"), []byte("old"), []byte("new"), false, []byte("is"), []byte("is")},
		{"value, absent expected", []byte("is"), nil, []byte("new"), false, []byte("is"), []byte("is")},
		{"empty as expected", empty, empty, []byte("new"), true, nil, []byte("new")},
		{"empty, absent expected", empty, nil, []byte("new"), false, empty, empty},
		{"to empty", []byte("old"), []byte("old"), empty, true, nil, empty},
		{"delete", []byte("old"), []byte("old"), nil, true, nil, absent},
		{"delete of another value", []byte("is"), []byte("old"), nil, false, []byte("is"), []byte("is")},
		{"delete of nothing", absent, nil, nil, true, nil, absent},
		{"prefix is not equal", []byte("value"), []byte("val"), []byte("new"), false, []byte("value"), []byte("value")},
	}
	d := openMemory(t)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key := fmt.Appendf(nil, "key %d", i)
			if test.before != nil {
				require.NoError(t, d.Set(key, test.before))
			}
			swapped, current, err := d.CompareAndSwap(key, test.old, test.new)
			require.NoError(t, err)
			require.Equal(t, test.swapped, swapped)
			require.Equal(t, test.current, current)
			value, err := d.Get(key)
			if test.after == nil {
				require.ErrorIs(t, err, db.ErrNotFound)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.after, value)
		})
	}
}

// Arguments may be reused, and results belong to the caller.
func TestArgumentsAndResultsAreCopies(t *testing.T) {
	d := openMemory(t)
	key, value := []byte("key"), []byte("value")
	require.NoError(t, d.Set(key, value))
	copy(key, "xxx")
	copy(value, "xxxxx")
	got, err := d.Get([]byte("key"))
	require.NoError(t, err)
	require.Equal(t, "value", string(got))
	copy(got, "yyyyy")
	again, err := d.Get([]byte("key"))
	require.NoError(t, err)
	require.Equal(t, "value", string(again))

	old, new := []byte("value"), []byte("other")
	swapped, _, err := d.CompareAndSwap([]byte("key"), old, new)
	require.NoError(t, err)
	require.True(t, swapped)
	copy(new, "zzzzz")
	got, err = d.Get([]byte("key"))
	require.NoError(t, err)
	require.Equal(t, "other", string(got))

	lo, hi := []byte("a"), []byte("z")
	it := d.Scan(lo, hi)
	defer it.Close()
	lo[0], hi[0] = 'y', 'a'
	require.True(t, it.Next(), "bounds were kept, not copied")
}

func TestReopen(t *testing.T) {
	for _, durability := range []db.Durability{db.DurabilitySync, db.DurabilityPeriodic, db.DurabilityNone} {
		for _, compression := range []db.Compression{db.CompressionNone, db.CompressionZstd, db.CompressionZstdFast, db.CompressionZstdBetter} {
			t.Run(fmt.Sprintf("%v/%v", durability, compression), func(t *testing.T) {
				dir := t.TempDir()
				opts := &db.Options{Durability: durability, Compression: compression}
				d := open(t, dir, opts)
				fill(t, d, "a", "b", "c")
				require.NoError(t, d.Delete([]byte("b")))
				require.NoError(t, d.Sync())
				require.NoError(t, d.Close())
				for range 3 {
					d = open(t, dir, nil)
					require.Equal(t, "a=A c=C", rows(d.Scan(nil, nil)))
					require.NoError(t, d.Close())
				}
			})
		}
	}
}

// Keys of the greatest length, which share nearly all of it, are separators and
// fences of nodes too.
func TestLongestKeys(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, &db.Options{Durability: db.DurabilityNone})
	const n = 40
	key := bytes.Repeat([]byte("k"), db.MaxKeyBytes)
	long := func(i int) []byte {
		copy(key[db.MaxKeyBytes-3:], fmt.Sprintf("%03d", i))
		return key
	}
	for i := range n {
		require.NoError(t, d.Set(long(i*7%n), fmt.Append(nil, i*7%n)))
	}
	for range 2 {
		for i := range n {
			value, err := d.Get(long(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), string(value))
		}
		i := 0
		it := d.Scan(nil, nil)
		for key, value := range it.All() {
			require.True(t, bytes.Equal(long(i), key))
			require.Equal(t, fmt.Sprint(i), string(value))
			i++
		}
		require.NoError(t, it.Err())
		require.Equal(t, n, i)
		require.NoError(t, d.Close())
		d = open(t, dir, nil)
	}
}

// Values of every size, up to many times what a record of the log can hold.
func TestLargeValues(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, &db.Options{Durability: db.DurabilityNone})
	value := bytes.Repeat([]byte("0123456789abcdefg"), 40<<20/17)
	sizes := []int{
		2047, 2048, 2049, 8191, 8192, 8193, 128<<10 - 1, 128 << 10, 128<<10 + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1,
		5 << 20, len(value),
	}
	key := func(size int) []byte { return fmt.Append(nil, size) }
	for _, size := range sizes {
		require.NoError(t, d.Set(key(size), value[size/2:size]))
		require.NoError(t, d.Set(key(size), value[:size]))
	}
	require.NoError(t, d.Set([]byte("deleted"), value[:5<<20]))
	require.NoError(t, d.Delete([]byte("deleted")))
	for range 2 {
		for _, size := range sizes {
			got, err := d.Get(key(size))
			require.NoError(t, err)
			require.True(t, bytes.Equal(value[:size], got), size)
		}
		n := 0
		it := d.Scan(nil, nil)
		for key, got := range it.All() {
			require.Equal(t, string(key), fmt.Sprint(len(got)))
			n++
		}
		require.NoError(t, it.Err())
		require.Equal(t, len(sizes), n)
		require.NoError(t, d.Close())
		d = open(t, dir, nil)
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, nil)
	fill(t, d, "a", "b")
	require.NoError(t, d.Close())
	before := readDir(t, dir)

	d = open(t, dir, &db.Options{ReadOnly: true})
	require.Equal(t, "a=A b=B", rows(d.Scan(nil, nil)))
	require.ErrorIs(t, d.Set([]byte("c"), nil), db.ErrReadOnly)
	require.ErrorIs(t, d.Delete([]byte("a")), db.ErrReadOnly)
	_, _, err := d.CompareAndSwap([]byte("a"), nil, nil)
	require.ErrorIs(t, err, db.ErrReadOnly)
	b := d.NewBatch()
	require.ErrorIs(t, b.Set([]byte("c"), nil), db.ErrReadOnly)
	require.ErrorIs(t, b.Delete([]byte("a")), db.ErrReadOnly)
	require.ErrorIs(t, b.Commit(), db.ErrReadOnly)
	require.NoError(t, d.Sync())

	second := open(t, dir, &db.Options{ReadOnly: true})
	require.Equal(t, "a=A b=B", rows(second.Scan(nil, nil)), "readers share a store")
	_, err = db.Open(dir, nil)
	require.ErrorIs(t, err, db.ErrLocked, "a writer beside readers")
	require.NoError(t, second.Close())
	require.NoError(t, d.Close())
	require.Equal(t, before, readDir(t, dir), "a reader changed a file")

	d = open(t, dir, nil)
	_, err = db.Open(dir, &db.Options{ReadOnly: true})
	require.ErrorIs(t, err, db.ErrLocked, "a reader beside a writer")
}

// TestHugeOptions: with a CacheSize that means "no limit" the percentages of it
// overflowed, and everything was evicted at once; with such a SpaceTarget the goal was
// that of the smallest store.
func TestHugeOptions(t *testing.T) {
	for _, size := range []int64{1 << 57, math.MaxInt64 / 10, math.MaxInt64} {
		d, err := db.Open(t.TempDir(), &db.Options{CacheSize: size, SpaceTarget: math.MaxInt / 3, Durability: db.DurabilityNone})
		require.NoError(t, err)
		for i := range 2000 {
			require.NoError(t, d.Set(fmt.Appendf(nil, "%d", i), bytes.Repeat([]byte("v"), 1000)))
		}
		m := d.Metrics()
		require.Zero(t, m.Pages.Evictions)
		require.Greater(t, m.Space.Goal, 900*m.Space.Live)
		require.NoError(t, d.Close())
	}
}

func TestInMemoryLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, &db.Options{InMemory: true})
	fill(t, d, "a")
	require.Equal(t, "a=A", rows(d.Scan(nil, nil)))
	require.NoError(t, d.Close())
	require.Empty(t, readDir(t, dir))
	d = open(t, dir, &db.Options{InMemory: true})
	require.Empty(t, rows(d.Scan(nil, nil)))
}

func TestMetrics(t *testing.T) {
	d := openMemory(t)
	for i := range 100 {
		fill(t, d, fmt.Sprint("key ", i))
	}
	_, err := d.Get([]byte("absent"))
	require.ErrorIs(t, err, db.ErrNotFound)
	b := d.NewBatch()
	require.NoError(t, b.Set(nil, nil))
	require.NoError(t, b.Commit())
	rows(d.Scan(nil, nil))
	require.NoError(t, d.Sync())

	m := d.Metrics()
	require.EqualValues(t, 100, m.Set.Count)
	require.EqualValues(t, 1, m.Get.Count)
	require.EqualValues(t, 1, m.Batch.Count)
	require.EqualValues(t, 1, m.Scan.Count)
	require.EqualValues(t, 1, m.Sync.Count)
	require.NotZero(t, m.Set.Latency.Samples)
	require.NotZero(t, m.Memory.Table)
	require.Less(t, m.Memory.Table, m.Memory.Used)
	require.LessOrEqual(t, m.Set.Latency.Quantile(0.5), m.Set.Latency.Max)
	require.LessOrEqual(t, m.Set.Latency.Mean(), m.Set.Latency.Max)
	require.NoError(t, d.Close())
	require.EqualValues(t, 100, d.Metrics().Set.Count)
	require.Zero(t, d.Metrics().Memory)
}

// TestMetricsAfterClose: half of the counters were zero then, as if they were sizes.
func TestMetricsAfterClose(t *testing.T) {
	d, err := db.Open(t.TempDir(), &db.Options{CacheSize: 1, Durability: db.DurabilityNone})
	require.NoError(t, err)
	for i := range 4000 {
		require.NoError(t, d.Set(fmt.Appendf(nil, "%d", i), bytes.Repeat([]byte("v"), 1000)))
	}
	before := d.Metrics().Pages
	require.NotZero(t, before.Evictions)
	require.NoError(t, d.Close())
	after := d.Metrics()
	require.GreaterOrEqual(t, after.Pages.Evictions, before.Evictions)
	require.GreaterOrEqual(t, after.Pages.Rewrites, before.Rewrites)
	require.NotZero(t, after.Pages.Snapshots)
	require.Zero(t, after.Pages.Pages)
	require.Zero(t, after.Space.Bytes)
}

// Bytes are counted once each, as what the user gave.
func TestMetricsUserBytes(t *testing.T) {
	d, err := db.Open("", &db.Options{InMemory: true, Merger: func(_, base, operand []byte) ([]byte, error) {
		return append(base[:len(base):len(base)], operand...), nil
	}})
	require.NoError(t, err)
	want := 0
	check := func(err error, bytes int) {
		t.Helper()
		require.NoError(t, err)
		want += bytes
		require.EqualValues(t, want, d.Metrics().Disk.UserBytes)
	}
	check(d.Set([]byte("key"), []byte("value")), 8)
	check(d.Merge([]byte("key"), []byte("more")), 7)
	swapped, _, err := d.CompareAndSwap([]byte("key"), []byte("another"), nil)
	require.False(t, swapped)
	check(err, 0)
	swapped, _, err = d.CompareAndSwap([]byte("key"), []byte("valuemore"), []byte("x"))
	require.True(t, swapped)
	check(err, 4)
	check(d.Delete([]byte("key")), 3)
	check(d.DeleteRange([]byte("a"), []byte("bc")), 3)
	b := d.NewBatch()
	require.NoError(t, b.Set([]byte("key"), []byte("value")))
	require.NoError(t, b.Delete([]byte("k")))
	check(b.Commit(), 9)
	check(d.Update(func(tx *db.Tx) error {
		require.NoError(t, tx.Set([]byte("key"), []byte("v")))
		require.NoError(t, tx.Merge([]byte("other"), []byte("mm")))
		return tx.DeleteRange([]byte("x"), nil)
	}), 12)
	require.NoError(t, d.Close())
}

// A Get that waits for a page is a miss, and counts once. What is written to the
// files is counted by kind.
func TestMetricsDisk(t *testing.T) {
	dir := t.TempDir()
	opts := db.Options{Durability: db.DurabilityNone}.Tiny()
	d, err := db.Open(dir, opts)
	require.NoError(t, err)
	const rows = 10_000
	for i := range rows {
		fill(t, d, fmt.Sprintf("key %05d", i))
	}
	require.NoError(t, d.Sync())
	for i := range rows / 10 {
		_, err := d.Get(fmt.Appendf(nil, "key %05d", i*10))
		require.NoError(t, err)
	}
	m := d.Metrics()
	require.NotZero(t, m.Pages.Misses)
	require.LessOrEqual(t, m.Pages.Misses, m.Get.Count)
	require.LessOrEqual(t, m.Pages.Misses, m.Pages.Loads)
	require.LessOrEqual(t, m.Pages.Loads, m.Disk.Reads)
	require.NotZero(t, m.Pages.Snapshots)
	require.NotZero(t, m.Disk.SnapshotBytes)
	require.Greater(t, m.Disk.BytesWritten, m.Disk.UserBytes)
	require.NotZero(t, m.Space.Live)
	require.LessOrEqual(t, m.Space.Live, m.Space.Bytes+128<<10, "but for the segments being written")
	require.NotZero(t, m.Space.Segments)
	require.NoError(t, d.Close())
	require.Zero(t, d.Metrics().Space.Bytes)
	require.Zero(t, d.Metrics().Space.Segments)
}
