package db_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
)

// contentOf reads all rows.
func contentOf(t testing.TB, d *db.DB) map[string]string {
	t.Helper()
	rows, err := allRows(d)
	require.NoError(t, err)
	return rows
}

func allRows(d *db.DB) (map[string]string, error) {
	rows := map[string]string{}
	it := d.Scan(nil, nil)
	for key, value := range it.All() {
		rows[string(key)] = string(value)
	}
	return rows, it.Err()
}

// restored restores the streams, verifies the store, and returns it.
func restored(t testing.TB, opts *db.Options, streams ...[]byte) *db.DB {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	require.NoError(t, db.RestoreWith(context.Background(), dir, bytes.NewReader(bytes.Join(streams, nil)), db.RestoreOptions{Options: opts}))
	d, err := db.Open(dir, opts)
	require.NoError(t, err)
	require.NoError(t, d.Verify(context.Background()))
	return d
}

// onlyIn says what is in dir, but for names.
func onlyIn(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	require.ElementsMatch(t, names, found)
}

// TestBackupChain makes full and incremental backups, each since the one before or an
// earlier one, of a store that is changed in every way in between, closed, opened to read
// only, and loses power: what is restored is what the store held at the moment of the
// last backup, and has the size that it says.
func TestBackupChain(t *testing.T) {
	rounds := 16
	if short() {
		rounds = 8
	}
	seed := crashtest.Seed(t)
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	mem, dir := vfs.NewMem(), t.TempDir()
	options := func(readOnly bool) *db.Options {
		o := db.Options{Merger: soakMerger, CacheSize: 128 << 10, Durability: db.DurabilityNone, ReadOnly: readOnly, Logger: quiet().Logger}
		return o.Tiny().On(mem)
	}
	open := func(readOnly bool) *db.DB {
		d, err := db.Open(dir, options(readOnly))
		require.NoError(t, err)
		return d
	}
	d := open(false)
	defer func() { d.Close() }()
	type backup struct {
		stream []byte
		report db.BackupReport
		since  int
	}
	var backups []backup
	incrementals, smaller, crashes := 0, 0, 0
	for n := range rounds {
		for range random.IntN(4) { // bursts here and there, or nothing
			if random.IntN(3) == 0 {
				from := random.IntN(soakKeys)
				require.NoError(t, d.DeleteRange(soakKey(0, from), soakKey(0, from+random.IntN(soakKeys/4))))
			}
			for range random.IntN(200) {
				require.NoError(t, soakWrite(d, soakOps(0, int(random.Uint32()>>1))))
			}
		}
		switch random.IntN(6) {
		case 0:
			require.NoError(t, d.Close())
			d = open(false)
		case 1: // what it loses are writes that no backup has
			left := mem.CrashClone(random.Int64())
			require.NoError(t, d.Close())
			mem = left
			crashes++
			d = open(false)
		case 2:
			require.NoError(t, d.Close())
			d = open(true)
		}
		b := backup{since: -1}
		o := db.BackupOptions{}
		if len(backups) > 0 && random.IntN(8) > 0 {
			b.since = len(backups) - 1 - random.IntN(min(2, len(backups)))
			o.Since = backups[b.since].report.Point
			incrementals++
		}
		var w bytes.Buffer
		var err error
		b.report, err = d.BackupWith(context.Background(), &w, o)
		require.NoError(t, err)
		b.stream = w.Bytes()
		require.EqualValues(t, len(b.stream), b.report.Written)
		backups = append(backups, b)
		want := contentOf(t, d)
		if b.since >= 0 && b.report.Rows < int64(len(want))/2 {
			smaller++
		}
		var streams [][]byte
		for i := n; i >= 0; i = backups[i].since {
			streams = append([][]byte{backups[i].stream}, streams...)
		}
		r := restored(t, (&db.Options{CacheSize: 1 << 20, Logger: quiet().Logger}).Tiny(), streams...)
		require.Equal(t, want, contentOf(t, r), "seed %d, backup %d", seed, n)
		require.Greater(t, r.Clock(), d.Clock()-3, "stamps go on above those of the backup")
		_, err = r.BackupWith(context.Background(), io.Discard, db.BackupOptions{Since: b.report.Point})
		require.ErrorIs(t, err, db.ErrBackupOrder, "another store")
		require.NoError(t, r.Close())
		if random.IntN(4) == 0 || d.Set([]byte("x"), nil) != nil { // read only
			require.NoError(t, d.Close())
			d = open(false)
		}
	}
	t.Logf("seed %d: %d backups, %d incremental, %d of these with less than half of the rows, %d losses of power", seed, rounds, incrementals, smaller, crashes)
	require.NotZero(t, incrementals)
}

// An incremental backup after a change of a few neighbours has little more than those.
func TestIncrementalBackupIsSmall(t *testing.T) {
	d, err := db.Open(t.TempDir(), db.Options{Durability: db.DurabilityNone}.Tiny())
	require.NoError(t, err)
	defer d.Close()
	for i := range 5000 {
		require.NoError(t, d.Set(fmt.Appendf(nil, "%05d", i), []byte("value")))
	}
	full, err := d.BackupWith(context.Background(), io.Discard, db.BackupOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 5000, full.Rows)
	require.NoError(t, d.Set([]byte("02000"), []byte("changed")))
	require.NoError(t, d.Delete([]byte("04000")))
	some, err := d.BackupWith(context.Background(), io.Discard, db.BackupOptions{Since: full.Point})
	require.NoError(t, err)
	require.Less(t, some.Rows, int64(200))
	none, err := d.BackupWith(context.Background(), io.Discard, db.BackupOptions{Since: some.Point})
	require.NoError(t, err)
	require.Less(t, none.Rows, int64(100), "the leaf of the write that seals a backup, at most")
}

// What is written after a crash is in the next incremental backup. Opening a read snapshot
// ticks the clock and writes nothing, so after a crash the clock would go on below the
// moment of the backup, were it not for the write that seals it.
func TestBackupAcrossCrash(t *testing.T) {
	for seed := range int64(3) {
		_, err := backupAcrossCrash(t.TempDir(), seed)
		require.NoError(t, err, "seed %d", seed)
	}
}

// Mistakes of Backup that the test finds.
func TestPlantedBugs(t *testing.T) {
	dir := t.TempDir()
	look := func(seed int64) (crashtest.Result, error) { return backupAcrossCrash(dir, seed) }
	crashtest.Planted(t, "leave the moment of a backup unsealed", &testhooks.BackupUnsealed, look)
	crashtest.Planted(t, "leave evicted leaves out of a backup", &testhooks.BackupMissEvicted, func(seed int64) (crashtest.Result, error) {
		return look(1000 + seed)
	})
}

// backupAcrossCrash fills a store that is larger than its cache, backs it up, crashes it,
// writes here and there, makes an incremental backup, and compares what the two restore
// in dir.
func backupAcrossCrash(dir string, seed int64) (tried crashtest.Result, err error) {
	random := rand.New(rand.NewPCG(uint64(seed), 2))
	mem := vfs.NewMem()
	o := db.Options{Merger: soakMerger, CacheSize: 128 << 10, Logger: quiet().Logger}
	d, err := db.Open("store", o.Tiny().On(mem))
	if err != nil {
		return tried, err
	}
	defer func() { d.Close() }()
	for n := range 500 {
		if err := soakWrite(d, soakOps(0, n)); err != nil {
			return tried, err
		}
	}
	for range random.IntN(100) {
		if err := d.Snapshot().Close(); err != nil {
			return tried, err
		}
	}
	var full, incremental bytes.Buffer
	report, err := d.BackupWith(context.Background(), &full, db.BackupOptions{})
	if err != nil {
		return tried, err
	}
	left := mem.CrashClone(seed)
	if err := d.Close(); err != nil {
		return tried, err
	}
	tried.Points++
	if d, err = db.Open("store", o.Tiny().On(left)); err != nil {
		return tried, err
	}
	for range 1 + random.IntN(40) {
		if err := d.Set(soakKey(0, random.IntN(soakKeys)), fmt.Append(nil, seed)); err != nil {
			return tried, err
		}
	}
	want, err := allRows(d) // which evicts what was written
	if err != nil {
		return tried, err
	}
	if _, err := d.BackupWith(context.Background(), &incremental, db.BackupOptions{Since: report.Point}); err != nil {
		return tried, err
	}
	dir = filepath.Join(dir, fmt.Sprint("restored", seed))
	if err := db.RestoreWith(context.Background(), dir, io.MultiReader(&full, &incremental), db.RestoreOptions{Options: &o}); err != nil {
		return tried, err
	}
	r, err := db.Open(dir, &o)
	if err != nil {
		return tried, err
	}
	defer r.Close()
	tried.Looks++
	found, err := allRows(r)
	if err == nil && !equal(want, found) {
		err = errors.New("restored is something else: " + difference(want, found))
	}
	return tried, err
}

// A backup that is made while writers write has of each a prefix of its writes: all that
// were acknowledged when it began, and none that began after it had ended.
func TestBackupWhileWriting(t *testing.T) {
	o := db.Options{Merger: soakMerger, CacheSize: 256 << 10, Durability: db.DurabilityNone}
	d, err := db.Open(t.TempDir(), o.Tiny())
	require.NoError(t, err)
	defer d.Close()
	var acknowledged, begun [soakWriters]atomic.Int64
	var stop atomic.Bool
	var wait sync.WaitGroup
	for w := range soakWriters {
		wait.Go(func() {
			for n := 1; !stop.Load(); n++ {
				begun[w].Store(int64(n))
				if err := soakWrite(d, soakOps(w, n)); err != nil {
					t.Error(err)
					return
				}
				acknowledged[w].Store(int64(n))
			}
		})
	}
	defer func() { stop.Store(true); wait.Wait() }()
	type made struct {
		stream      []byte
		point       db.BackupPoint
		least, most [soakWriters]int
	}
	var backups []made
	for range 6 {
		var b made
		var since db.BackupPoint
		for w := range soakWriters {
			b.least[w] = int(acknowledged[w].Load())
		}
		if len(backups) > 0 {
			since = backups[len(backups)-1].point
		}
		var buffer bytes.Buffer
		report, err := d.BackupWith(context.Background(), &buffer, db.BackupOptions{Since: since})
		require.NoError(t, err)
		for w := range soakWriters {
			b.most[w] = int(begun[w].Load())
		}
		b.stream, b.point = buffer.Bytes(), report.Point
		backups = append(backups, b)
	}
	stop.Store(true)
	wait.Wait()
	var rows [soakWriters]map[string]string
	var done [soakWriters]int
	var streams [][]byte
	for i, b := range backups {
		streams = append(streams, b.stream)
		r := restored(t, db.Options{}.Tiny(), streams...)
		for w := range soakWriters {
			if rows[w] == nil {
				rows[w] = map[string]string{}
			}
			found := map[string]string{}
			it := r.ScanPrefix(fmt.Appendf(nil, "soak/%d/", w))
			for key, value := range it.All() {
				found[string(key)] = string(value)
			}
			for done[w] < b.least[w] || done[w] < b.most[w] && !equal(rows[w], found) {
				done[w]++
				soakApply(rows[w], w, soakOps(w, done[w]))
			}
			require.True(t, equal(rows[w], found), "backup %d, writer %d, %d to %d: %s", i, w, b.least[w], b.most[w], difference(rows[w], found))
		}
		require.NoError(t, r.Close())
	}
}

// smallBackup is a full backup and an incremental one, of everything that a row can be.
func smallBackup(t testing.TB) (full, incremental []byte) {
	opts := db.Options{Merger: soakMerger, InMemory: true}
	d, err := db.Open("", &opts)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Set(nil, nil))
	require.NoError(t, d.Set([]byte("a"), []byte("1")))
	require.NoError(t, d.Set([]byte("b"), bytes.Repeat([]byte("large"), 60_000)))
	require.NoError(t, d.Merge([]byte("c"), []byte("operand")))
	var w bytes.Buffer
	report, err := d.BackupWith(context.Background(), &w, db.BackupOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 4, report.Rows)
	full = bytes.Clone(w.Bytes())
	require.NoError(t, d.Delete([]byte("a")))
	require.NoError(t, d.Set([]byte("b"), []byte("short")))
	w.Reset()
	_, err = d.BackupWith(context.Background(), &w, db.BackupOptions{Since: report.Point})
	require.NoError(t, err)
	return full, bytes.Clone(w.Bytes())
}

func restoreInMemory(stream []byte) (rows int, err error) {
	d, err := db.Open("", &db.Options{InMemory: true})
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if err := db.RestoreInto(context.Background(), d, bytes.NewReader(stream)); err != nil {
		return 0, err
	}
	it := d.Scan(nil, nil)
	defer it.Close()
	for it.Next() {
		rows++
	}
	return rows, it.Err()
}

// TestBackupDamaged flips bytes of a backup, cuts it at each length, leaves frames out and
// swaps streams: it is refused, and nothing is left of it. (What is cut where one stream
// ends is a backup.)
func TestBackupDamaged(t *testing.T) {
	full, incremental := smallBackup(t)
	whole := append(bytes.Clone(full), incremental...)
	n, err := restoreInMemory(whole)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	stride := 211
	if os.Getenv("PULK_DAMAGE") != "" {
		stride = 1
	}
	tried := 0
	// The headers, rows and ends byte by byte, of a large value some.
	for i := 0; i < len(whole); {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1 << (i % 8)
		_, err := restoreInMemory(damaged)
		require.True(t, errors.Is(err, db.ErrCorrupt) || errors.Is(err, db.ErrVersion), "byte %d: %v", i, err)
		if i != len(full) {
			_, err = restoreInMemory(whole[:i])
			require.ErrorIs(t, err, db.ErrCorrupt, "cut at %d", i)
		}
		tried += 2
		if i > 200 && i < len(full)-100 {
			i += stride
		} else {
			i++
		}
	}
	for _, streams := range [][][]byte{{incremental}, {full, full}, {full, incremental, incremental}, {incremental, full}} {
		_, err := restoreInMemory(bytes.Join(streams, nil))
		require.ErrorIs(t, err, db.ErrBackupOrder)
	}
	_, err = restoreInMemory(append(bytes.Clone(whole), 0))
	require.ErrorIs(t, err, db.ErrCorrupt)
	var corrupt *db.CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.EqualValues(t, len(whole), corrupt.Offset)
	t.Logf("%d streams refused", tried)

	// On disk nothing is left, nor of directories that were made for it.
	for _, stream := range [][]byte{nil, full[:len(full)/2], whole[:len(whole)-1], incremental} {
		parent := t.TempDir()
		err := db.Restore(context.Background(), filepath.Join(parent, "a", "store"), bytes.NewReader(stream))
		require.Error(t, err)
		onlyIn(t, parent)
	}
}

// FuzzRestore: no stream makes Restore panic, and what it accepts is a store.
func FuzzRestore(f *testing.F) {
	full, incremental := smallBackup(f)
	f.Add(full[:300])
	f.Add(append(bytes.Clone(full), incremental...))
	f.Add(incremental)
	f.Fuzz(func(t *testing.T, stream []byte) {
		if _, err := restoreInMemory(stream); err != nil {
			known := errors.Is(err, db.ErrCorrupt) || errors.Is(err, db.ErrVersion) || errors.Is(err, db.ErrBackupOrder)
			require.True(t, known, "%v", err)
		}
	})
}

type failing struct{ left int }

var errFailing = errors.New("failing")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFailing
	}
	return len(p), nil
}

func (f *failing) Read(p []byte) (int, error) { return 0, errFailing }

// TestBackupLongFold: a value that operands made long was written as one frame, longer
// than any that Restore accepts, so that the backup was of no use.
func TestBackupLongFold(t *testing.T) {
	opts := &db.Options{Durability: db.DurabilityNone, Merger: func(_, base, operand []byte) ([]byte, error) {
		return append(base, operand...), nil
	}}
	d, err := db.Open(t.TempDir(), opts)
	require.NoError(t, err)
	require.NoError(t, d.Set([]byte("list"), bytes.Repeat([]byte("v"), 3<<20)))
	require.NoError(t, d.Merge([]byte("list"), []byte("one more")))
	var w bytes.Buffer
	_, err = d.Backup(context.Background(), &w)
	require.NoError(t, err)
	want := contentOf(t, d)
	require.NoError(t, d.Close())
	d = restored(t, opts, w.Bytes())
	require.Equal(t, want["list"], contentOf(t, d)["list"])
	require.NoError(t, d.Close())
}

func TestBackupErrors(t *testing.T) {
	ctx := context.Background()
	d, err := db.Open(t.TempDir(), &db.Options{Durability: db.DurabilityNone})
	require.NoError(t, err)
	for i := range 100 {
		require.NoError(t, d.Set(fmt.Appendf(nil, "%d", i), bytes.Repeat([]byte("v"), 10_000)))
	}
	var w bytes.Buffer
	n, err := d.Backup(ctx, &w)
	require.NoError(t, err)
	require.EqualValues(t, w.Len(), n)
	seen, bytesSeen := int64(0), int64(0)
	_, err = d.BackupWith(ctx, io.Discard, db.BackupOptions{Progress: func(rows, bytes int64) {
		require.GreaterOrEqual(t, rows, seen)
		require.GreaterOrEqual(t, bytes, bytesSeen)
		seen, bytesSeen = rows, bytes
	}})
	require.NoError(t, err)
	require.EqualValues(t, 100, seen)
	for _, left := range []int{0, 100, 300_000} {
		n, err := d.Backup(ctx, &failing{left})
		require.ErrorIs(t, err, errFailing)
		require.LessOrEqual(t, n, int64(left))
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = d.Backup(ended, io.Discard)
	require.ErrorIs(t, err, context.Canceled)
	for _, since := range []db.BackupPoint{"x", "pulk1-", "pulk1-00-1", "pulk1-" + db.BackupPoint(strings.Repeat("0", 32)) + "-+1"} {
		_, err = d.BackupWith(ctx, io.Discard, db.BackupOptions{Since: since})
		require.ErrorIs(t, err, db.ErrInvalidOptions, "%s", since)
	}
	_, err = d.BackupWith(ctx, io.Discard, db.BackupOptions{Since: "pulk1-" + db.BackupPoint(strings.Repeat("0", 32)) + "-1"})
	require.ErrorIs(t, err, db.ErrBackupOrder)
	require.NoError(t, d.Close())
	_, err = d.Backup(ctx, io.Discard)
	require.ErrorIs(t, err, db.ErrClosed)

	parent := t.TempDir()
	dir := filepath.Join(parent, "store")
	require.ErrorIs(t, db.Restore(ctx, dir, &failing{}), errFailing)
	require.ErrorIs(t, db.Restore(ended, dir, bytes.NewReader(w.Bytes())), context.Canceled)
	require.ErrorIs(t, db.Restore(ctx, "", bytes.NewReader(w.Bytes())), db.ErrNotStore)
	require.ErrorIs(t, db.RestoreWith(ctx, dir, bytes.NewReader(w.Bytes()), db.RestoreOptions{Options: &db.Options{InMemory: true}}), db.ErrInvalidOptions)
	onlyIn(t, parent)
	require.NoError(t, os.Mkdir(dir, 0o777)) // empty: good
	last := int64(0)
	require.NoError(t, db.RestoreWith(ctx, dir, bytes.NewReader(w.Bytes()), db.RestoreOptions{Progress: func(rows, bytes int64) {
		require.GreaterOrEqual(t, rows, last)
		last = rows
	}}))
	require.EqualValues(t, 100, last)
	onlyIn(t, parent, "store")
	require.ErrorIs(t, db.Restore(ctx, dir, bytes.NewReader(w.Bytes())), fs.ErrExist)
	onlyIn(t, parent, "store")
	d, err = db.Open(dir, nil)
	require.NoError(t, err)
	require.Len(t, contentOf(t, d), 100)
	require.NoError(t, d.Close())
}

// TestRestorePlace: to restore in the place of a file was refused without fs.ErrExist,
// and in that of a link to an empty directory the store was put where the link was.
func TestRestorePlace(t *testing.T) {
	full, _ := smallBackup(t)
	parent := t.TempDir()
	file, real, link := filepath.Join(parent, "file"), filepath.Join(parent, "real"), filepath.Join(parent, "link")
	require.NoError(t, os.WriteFile(file, []byte("mine"), 0o666))
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		require.ErrorIs(t, db.Restore(context.Background(), dir, bytes.NewReader(full)), fs.ErrExist)
	}
	require.NoError(t, os.Mkdir(real, 0o777))
	require.NoError(t, os.Symlink(real, link))
	require.NoError(t, db.Restore(context.Background(), link, bytes.NewReader(full)))
	info, err := os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&fs.ModeSymlink)
	d, err := db.Open(real, &db.Options{ReadOnly: true})
	require.NoError(t, err)
	require.NoError(t, d.Close())
	onlyIn(t, parent, "file", "real", "link")
}

// TestRestoreStamp: a header with a stamp that no store comes to, and a good checksum, made
// the clock go round, and Restore hang.
func TestRestoreStamp(t *testing.T) {
	full, _ := smallBackup(t)
	const stamp, sum = 36, 52
	for _, value := range []uint64{math.MaxUint64, 1<<62 + 1} {
		stream := bytes.Clone(full)
		binary.LittleEndian.PutUint64(stream[stamp:], value)
		binary.LittleEndian.PutUint32(stream[sum:], crc32.Checksum(stream[:sum], crc32.MakeTable(crc32.Castagnoli)))
		_, err := restoreInMemory(stream)
		require.ErrorIs(t, err, db.ErrCorrupt)
	}
}

// TestRestorePanic: a Progress, or a reader, that panics left the store open and its
// directory behind.
func TestRestorePanic(t *testing.T) {
	full, _ := smallBackup(t)
	parent := t.TempDir()
	before := runtime.NumGoroutine()
	require.Panics(t, func() {
		_ = db.RestoreWith(context.Background(), filepath.Join(parent, "new"), bytes.NewReader(full), db.RestoreOptions{
			Progress: func(int64, int64) { panic("no") },
		})
	})
	onlyIn(t, parent)
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
}

// restoreUntilKilled is the child of TestRestoreKill.
func restoreUntilKilled(dir, stream string) {
	f, err := os.Open(stream)
	if err == nil {
		err = db.Restore(context.Background(), dir, f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

// TestRestoreKill kills a process while it restores: there is the whole store, or none.
func TestRestoreKill(t *testing.T) {
	t.Parallel()
	src, err := db.Open("", &db.Options{InMemory: true})
	require.NoError(t, err)
	defer src.Close()
	for i := range 20_000 {
		require.NoError(t, src.Set(fmt.Appendf(nil, "%06d", i), bytes.Repeat([]byte("v"), 100)))
	}
	require.NoError(t, src.Set([]byte("large"), bytes.Repeat([]byte("large"), 1<<20)))
	stream := filepath.Join(t.TempDir(), "backup")
	f, err := os.Create(stream)
	require.NoError(t, err)
	_, err = src.Backup(context.Background(), f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	want := contentOf(t, src)
	whole, none := 0, 0
	longest := 2 * time.Second // that one took
	for n := 0; n < 8 || whole == 0 || none == 0; n++ {
		dir := filepath.Join(t.TempDir(), "store")
		cmd := child(t, "restore", dir, stream)
		require.NoError(t, cmd.Start())
		began := time.Now()
		timer := time.AfterFunc(rand.N(longest), func() { cmd.Process.Kill() })
		if err := cmd.Wait(); err == nil {
			longest = time.Since(began)
		}
		timer.Stop()
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			none++
			continue
		}
		whole++
		d, err := db.Open(dir, nil)
		require.NoError(t, err)
		require.NoError(t, d.Verify(context.Background()))
		require.Equal(t, want, contentOf(t, d))
		require.NoError(t, d.Close())
	}
	t.Logf("%d times whole, %d times not there", whole, none)
}
