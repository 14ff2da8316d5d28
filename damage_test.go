package db_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// readDir returns the contents of all files under dir by relative path.
func readDir(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = string(data)
		return err
	}))
	return files
}

// writeDir makes a new directory with these files.
func writeDir(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		require.NoError(t, os.WriteFile(path, []byte(data), 0o666))
	}
	return dir
}

func TestTooLarge(t *testing.T) {
	d := openMemory(t)
	key := make([]byte, db.MaxKeyBytes+1)
	value := make([]byte, db.MaxValueBytes+1) // never touched, so it costs no memory
	b := d.NewBatch()
	calls := map[string]func() error{
		"Get":                   func() error { _, err := d.Get(key); return err },
		"Has":                   func() error { _, err := d.Has(key); return err },
		"Set, key":              func() error { return d.Set(key, nil) },
		"Set, value":            func() error { return d.Set(nil, value) },
		"Delete":                func() error { return d.Delete(key) },
		"CompareAndSwap, key":   func() error { _, _, err := d.CompareAndSwap(key, nil, nil); return err },
		"CompareAndSwap, value": func() error { _, _, err := d.CompareAndSwap(nil, nil, value); return err },
		"Batch.Set, key":        func() error { return b.Set(key, nil) },
		"Batch.Set, value":      func() error { return b.Set(nil, value) },
		"Batch.Delete":          func() error { return b.Delete(key) },
	}
	for name, call := range calls {
		require.ErrorIs(t, call(), db.ErrTooLarge, name)
	}
	require.Zero(t, b.Len())
	require.NoError(t, d.Set(key[:db.MaxKeyBytes], nil))
	it := d.Scan(nil, nil)
	require.False(t, it.SeekGE(append(key, 1)))
	require.True(t, it.SeekLT(append(key, 1)))
	require.NoError(t, it.Close())
}

func TestClosed(t *testing.T) {
	for _, opts := range []*db.Options{nil, {InMemory: true}} {
		d := open(t, t.TempDir(), opts)
		fill(t, d, "a", "b", "c")
		key := []byte("a")
		it, fresh := d.Scan(nil, nil), d.Scan(nil, nil)
		require.True(t, it.First())
		b := d.NewBatch()
		require.NoError(t, b.Set(key, key))

		require.NoError(t, d.Close())
		calls := map[string]func() error{
			"Close":          d.Close,
			"Get":            func() error { _, err := d.Get(key); return err },
			"GetTo":          func() error { _, err := d.GetTo(nil, key); return err },
			"Has":            func() error { _, err := d.Has(key); return err },
			"Set":            func() error { return d.Set(key, key) },
			"Delete":         func() error { return d.Delete(key) },
			"CompareAndSwap": func() error { _, _, err := d.CompareAndSwap(key, nil, nil); return err },
			"Sync":           d.Sync,
			"Batch.Set":      func() error { return b.Set(key, key) },
			"Batch.Delete":   func() error { return b.Delete(key) },
			"Batch.Commit":   b.Commit,
			"NewBatch":       func() error { return d.NewBatch().Commit() },
		}
		for name, call := range calls {
			require.ErrorIs(t, call(), db.ErrClosed, name)
		}
		require.Equal(t, "set a=a", replay(b), "a batch can still be read")
		b.Reset()
		d.Metrics()

		closed := d.Scan(nil, nil)
		require.NotNil(t, closed)
		for name, it := range map[string]*db.Iterator{"Scan": closed, "ScanPrefix": d.ScanPrefix(key), "open": it, "fresh": fresh} {
			for _, step := range []string{"next", "prev", "first", "last", "ge:a", "lt:b"} {
				require.False(t, move(it, step), "%s: %s", name, step)
				require.ErrorIs(t, it.Err(), db.ErrClosed, "%s: %s", name, step)
				require.Nil(t, it.Key())
				require.Nil(t, it.Value())
			}
			for range it.All() {
				t.Fatal("a row of a closed store")
			}
			require.ErrorIs(t, it.Close(), db.ErrClosed)
			require.ErrorIs(t, it.Err(), db.ErrClosed)
		}
	}
}

func TestInvalidOptions(t *testing.T) {
	tests := []struct {
		field string
		opts  db.Options
	}{
		{"CacheSize", db.Options{CacheSize: -1}},
		{"Durability", db.Options{Durability: 9}},
		{"SyncInterval", db.Options{SyncInterval: -1}},
		{"Compression", db.Options{Compression: 9}},
		{"ReadOnly", db.Options{ReadOnly: true, InMemory: true}},
	}
	for _, test := range tests {
		dir := filepath.Join(t.TempDir(), "store")
		_, err := db.Open(dir, &test.opts)
		require.ErrorIs(t, err, db.ErrInvalidOptions)
		require.ErrorContains(t, err, test.field)
		require.NoDirExists(t, dir)
	}
}

func TestOpenElsewhere(t *testing.T) {
	parent := t.TempDir()
	file := filepath.Join(parent, "file")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o666))
	other := writeDir(t, map[string]string{"thesis.tex": "precious", "figures/1.svg": "precious"})
	missing := filepath.Join(parent, "missing")

	for name, dir := range map[string]string{"file": file, "below a file": filepath.Join(file, "x"), "other": other, "empty path": ""} {
		for _, opts := range []*db.Options{nil, {ReadOnly: true}} {
			_, err := db.Open(dir, opts)
			require.ErrorIs(t, err, db.ErrNotStore, name)
		}
	}
	require.Len(t, readDir(t, other), 2)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "precious", string(data))

	_, err = db.Open(missing, &db.Options{ReadOnly: true})
	require.ErrorIs(t, err, db.ErrNotStore)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoDirExists(t, missing)

	d := open(t, filepath.Join(parent, "deep", "down"), nil)
	fill(t, d, "a")
}

func TestSecondOpener(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, nil)
	fill(t, d, "a")
	_, err := db.Open(dir, nil)
	require.ErrorIs(t, err, db.ErrLocked, "in the same process")
	require.Equal(t, "locked", runChildToEnd(t, "lock", dir), "in another process")
	fill(t, d, "b")
	require.NoError(t, d.Close())
	require.Equal(t, "opened", runChildToEnd(t, "lock", dir))
	d = open(t, dir, nil)
	require.Equal(t, "a=A b=B", rows(d.Scan(nil, nil)))
}

// damaged is the store that the tests below damage: its files and what they
// hold. Its options are tiny, so that it has many segments and a snapshot.
func damaged(t *testing.T) (files map[string]string, want map[string]string) {
	t.Helper()
	dir := t.TempDir()
	want = map[string]string{}
	d := open(t, dir, db.Options{Durability: db.DurabilityNone}.Tiny())
	for i := range 3000 {
		key, value := fmt.Sprintf("key %05d", i*7919%1000), fmt.Sprintf("value %d", i)
		want[key] = value
		require.NoError(t, d.Set([]byte(key), []byte(value)))
	}
	want["large"] = strings.Repeat("large ", 5000)
	require.NoError(t, d.Set([]byte("large"), []byte(want["large"])))
	require.NoError(t, d.Close())
	return readDir(t, dir), want
}

// A damage is one change to one file.
type damage struct {
	name string
	do   func(data []byte) []byte
}

func damages() []damage {
	flip := func(at func(n int) int) func([]byte) []byte {
		return func(data []byte) []byte {
			if len(data) > 0 {
				data[at(len(data))] ^= 0x10
			}
			return data
		}
	}
	cut := func(at func(n int) int) func([]byte) []byte {
		return func(data []byte) []byte { return data[:at(len(data))] }
	}
	return []damage{
		{"bit flipped in the first bytes", flip(func(n int) int { return 1 })},
		{"bit flipped in the header", flip(func(n int) int { return min(24, n-1) })},
		{"bit flipped at a quarter", flip(func(n int) int { return n / 4 })},
		{"bit flipped in the middle", flip(func(n int) int { return n / 2 })},
		{"bit flipped at three quarters", flip(func(n int) int { return 3 * n / 4 })},
		{"bit flipped at the end", flip(func(n int) int { return n - 1 })},
		{"emptied", cut(func(n int) int { return 0 })},
		{"cut in the header", cut(func(n int) int { return min(10, n) })},
		{"cut in the middle", cut(func(n int) int { return n / 2 })},
		{"cut by a byte", cut(func(n int) int { return max(0, n-1) })},
		{"bit flipped anywhere", flip(rand.IntN)},
		{"bit flipped anywhere else", flip(rand.IntN)},
		{"zeroed in the middle", func(data []byte) []byte {
			clear(data[len(data)/3 : len(data)/3+min(600, len(data)/2)])
			return data
		}},
		{"other bytes", func(data []byte) []byte { return bytes.Repeat([]byte("not a store "), 1000) }},
	}
}

// With any one file damaged, opening and reading give a documented error or
// the data as they were. Nothing panics, and nothing that was there is lost
// from the directory.
func TestDamagedFile(t *testing.T) {
	files, want := damaged(t)
	step := 1
	if short() {
		step = 5
	}
	n, refused := 0, 0
	for name, data := range files {
		for i, damage := range damages() {
			if n++; i%step != 0 || len(data) == 0 {
				continue
			}
			changed := map[string]string{}
			for name, data := range files {
				changed[name] = data
			}
			changed[name] = string(damage.do([]byte(data)))
			t.Run(name+" "+damage.name, func(t *testing.T) {
				if !readsRight(t, name, writeDir(t, changed), changed, want) {
					refused++
				}
			})
		}
	}
	t.Logf("%d files, %d damages: %d refused", len(files), n, refused)
	require.NotZero(t, refused)
}

// A missing file is noticed too.
func TestMissingFile(t *testing.T) {
	files, want := damaged(t)
	for name := range files {
		changed := map[string]string{}
		for other, data := range files {
			if other != name {
				changed[other] = data
			}
		}
		t.Run(name, func(t *testing.T) {
			readsRight(t, name, writeDir(t, changed), changed, want)
		})
	}
}

// quiet are options of a store that reports nothing.
func quiet() db.Options { return db.Options{Logger: slog.New(slog.DiscardHandler)} }

// readsRight reports whether the store in dir, which was made of files, opens
// and returns what is wanted. It fails the test if the store answers wrong
// data, an undocumented error, or loses a file when it refuses to open.
func readsRight(t *testing.T, name, dir string, files, want map[string]string) bool {
	t.Helper()
	d, err := db.Open(dir, quiet().Tiny())
	if err != nil {
		requireDocumented(t, name, err)
		for file := range files {
			require.FileExists(t, filepath.Join(dir, file), "%s: a refused store lost a file", name)
		}
		return false
	}
	defer d.Close()
	right := true
	for key, value := range want {
		got, err := d.Get([]byte(key))
		if err != nil {
			requireDocumented(t, name, err)
			require.NotErrorIs(t, err, db.ErrNotFound, "%s: %s is lost", name, key)
			right = false
			continue
		}
		require.Equal(t, value, string(got), "%s: %s", name, key)
	}
	it := d.Scan(nil, nil)
	n := 0
	for key, value := range it.All() {
		require.Equal(t, want[string(key)], string(value), "%s: scan, %s", name, key)
		n++
	}
	if it.Err() != nil {
		requireDocumented(t, name, it.Err())
		return false
	}
	require.Equal(t, len(want), n, "%s: scan", name)
	return right
}

// requireDocumented fails unless err is one that damage is answered with.
func requireDocumented(t *testing.T, name string, err error) {
	t.Helper()
	var corrupt *db.CorruptError
	switch {
	case errors.As(err, &corrupt):
		require.ErrorIs(t, err, db.ErrCorrupt, name)
		require.NotEmpty(t, corrupt.File, "%s: %v names no file", name, err)
	case errors.Is(err, db.ErrVersion), errors.Is(err, db.ErrNotStore), errors.Is(err, db.ErrNotFound):
	default:
		require.NoError(t, err, name)
	}
}

// A format version from the future is ErrVersion and not taken for damage.
func TestUnknownVersion(t *testing.T) {
	files, want := damaged(t)
	refused := 0
	for name, data := range files {
		changed := map[string]string{}
		for name, data := range files {
			changed[name] = data
		}
		raised, ok := raiseVersion(data)
		if !ok {
			continue
		}
		changed[name] = raised
		dir := writeDir(t, changed)
		d, err := db.Open(dir, quiet().Tiny())
		if err == nil {
			// A page-table snapshot that cannot be read can be done without.
			require.NoError(t, d.Close())
			require.True(t, readsRight(t, name, writeDir(t, changed), changed, want))
			continue
		}
		require.ErrorIs(t, err, db.ErrVersion, name)
		require.NotErrorIs(t, err, db.ErrCorrupt, name)
		require.Equal(t, changed, readDir(t, dir), "%s: a refused store changed", name)
		refused++
	}
	require.NotZero(t, refused)
}

// raiseVersion returns data, the contents of a file with the common header,
// with a later format version and a good checksum.
func raiseVersion(data string) (string, bool) {
	const version, crc = 8, 124 // offsets
	if len(data) < crc+4 || !strings.HasPrefix(data, "pulk") {
		return "", false
	}
	raised := []byte(data)
	binary.LittleEndian.PutUint32(raised[version:], 999)
	resealHeader(raised)
	return string(raised), true
}

// resealHeader makes the checksum of the common header good.
func resealHeader(p []byte) {
	const crc = 124
	binary.LittleEndian.PutUint32(p[crc:], crc32.Checksum(p[:crc], crc32.MakeTable(crc32.Castagnoli)))
}
