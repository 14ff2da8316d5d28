package db_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// An image is the files of a store by name, and what is right to find in them:
// the newest state and, of a store that crashed, all before it, newest first.
type image struct {
	files  map[string][]byte
	states []map[string]string
	had    map[string]map[string]bool // every value that each key ever had; may be nil
}

// imageDir exists in every file system, as Open looks at it in the real one too.
const imageDir = "."

// takeImage returns the files of the store in fs.
func takeImage(t testing.TB, fs vfs.FS, states ...map[string]string) image {
	t.Helper()
	names, err := fs.ReadDir(imageDir)
	require.NoError(t, err)
	x := image{files: map[string][]byte{}, states: states}
	for _, name := range names {
		if _, isDir, err := fs.Stat(path.Join(imageDir, name)); err == nil && isDir {
			continue
		}
		file, err := fs.OpenFile(path.Join(imageDir, name), os.O_RDONLY, 0)
		require.NoError(t, err)
		size, err := file.Size()
		require.NoError(t, err)
		data := make([]byte, size)
		_, err = file.ReadAt(data, 0)
		require.True(t, size == 0 || err == nil, "%v", err)
		require.NoError(t, file.Close())
		x.files[name] = data
	}
	return x
}

// with returns x with another content of one file; nil: without it.
func (x image) with(name string, data []byte) image {
	files := maps.Clone(x.files)
	if files[name] = data; data == nil {
		delete(files, name)
	}
	return image{files, x.states, x.had}
}

// put makes a file system of x.
func (x image) put(t testing.TB) *vfs.Mem {
	fs := vfs.NewMem()
	require.NoError(t, fs.MkdirAll(imageDir))
	for name, data := range x.files {
		file, err := fs.OpenFile(path.Join(imageDir, name), os.O_RDWR|os.O_CREATE, 0o666)
		require.NoError(t, err)
		_, err = file.WriteAt(data, 0)
		require.NoError(t, err)
		require.NoError(t, file.Close())
	}
	require.NoError(t, fs.SyncDir(imageDir))
	return fs
}

// names returns the names of the files that have contents, sorted.
func (x image) names() []string {
	names := slices.Sorted(maps.Keys(x.files))
	return slices.DeleteFunc(names, func(name string) bool { return len(x.files[name]) == 0 })
}

func badOptions() db.Options {
	o := quiet()
	o.Merger = addOperand
	return o
}

// fullImage returns a closed store with everything that a store can have in its
// files: large and compressed and streamed values, operands, erased ranges,
// pages that were moved, page-table snapshots and differences to them. older are
// its files at an earlier time, when it was closed too.
func fullImage(t testing.TB) (x, older image) {
	fs := vfs.NewMem()
	want, had := map[string]string{}, map[string]map[string]bool{}
	for round := 0; ; round++ {
		fillRound(t, fs, want, had, round)
		x = takeImage(t, fs, maps.Clone(want))
		x.had = had
		survivors, differences, packed := x.riches()
		if rich := survivors > 0 && differences > 0 && packed > 0; rich || round == 60 {
			require.True(t, rich, "%d segments of survivors, %d differences, %d compressed pages", survivors, differences, packed)
			t.Logf("%d files, %d bytes, after %d rounds", len(x.files), x.bytes(), round)
			return x, older
		}
		older = x
	}
}

// fillRound opens the store, changes some of it, and closes it.
func fillRound(t testing.TB, fs vfs.FS, want map[string]string, had map[string]map[string]bool, round int) {
	o := badOptions()
	o.Durability, o.Compression = db.DurabilityNone, db.CompressionZstd
	d, err := db.Open(imageDir, o.Minute().On(fs))
	require.NoError(t, err)
	now := ""
	note := func(key string) {
		if had[key] == nil {
			had[key] = map[string]bool{}
		}
		had[key][want[key]] = true
	}
	for i := range 90 {
		if now != "" {
			note(now)
		}
		key := fmt.Sprintf("%03d", i*37%60)
		now = key
		switch {
		case i%45 == 20:
			want[key] = strings.Repeat(fmt.Sprintf("large %d ", i+round), 60)
		case i%7 == 3:
			want[key] += fmt.Sprintf("+%d", i)
			require.NoError(t, d.Merge([]byte(key), fmt.Appendf(nil, "+%d", i)))
			continue
		case i%11 == 5:
			delete(want, key)
			require.NoError(t, d.Delete([]byte(key)))
			continue
		default:
			want[key] = strings.Repeat("v", i%30) + fmt.Sprint(i+round)
		}
		require.NoError(t, d.Set([]byte(key), []byte(want[key])))
	}
	require.NoError(t, d.DeleteRange([]byte("010"), []byte("013")))
	maps.DeleteFunc(want, func(key, _ string) bool { return key >= "010" && key < "013" })
	want["streamed"] = strings.Repeat(fmt.Sprintf("streamed %d ", round), 200)
	note(now)
	note("streamed")
	require.NoError(t, d.SetFrom([]byte("streamed"), strings.NewReader(want["streamed"]), int64(len(want["streamed"]))))
	require.NoError(t, d.Close())
}

// riches counts what the damage shall meet: segments of pages that were moved,
// differences to page-table snapshots, compressed pages.
func (x image) riches() (survivors, differences, packed int) {
	for name, data := range x.files {
		switch {
		case len(data) < 128:
		case strings.HasPrefix(string(data), "pulkseg\n"):
			survivors += int(data[104])
			packed += strings.Count(string(data), "\x28\xb5\x2f\xfd")
		case path.Ext(name) == ".snap" && binary.LittleEndian.Uint64(data[72:]) != 0:
			differences++
		}
	}
	return survivors, differences, packed
}

// crashedImage returns a store whose process was killed after its last write was
// synced, and before a mark said so: that write cannot be told from a torn one. If
// a segment is cut short, the marks of what was in it go with it.
func crashedImage(t testing.TB) image {
	fs := vfs.NewMem()
	d, err := db.Open(imageDir, ptr(badOptions()).Minute().On(fs))
	require.NoError(t, err)
	want := map[string]string{}
	states := []map[string]string{{}}
	for i := range 12 {
		key := fmt.Sprintf("%02d", i*5%9)
		want[key] = fmt.Sprintf("value %d", i)
		require.NoError(t, d.Set([]byte(key), []byte(want[key])))
		states = append(states, maps.Clone(want))
	}
	slices.Reverse(states)
	x := takeImage(t, fs.CrashClone(1), states...)
	require.NoError(t, d.Close())
	return x
}

func ptr[T any](x T) *T { return &x }

// A prober opens damaged stores and judges what they answer.
type prober struct {
	testing.TB
	readOnly bool
	reopen   bool
	refusal  error // of the last Open
	crashtest.Damage
}

// probe opens the store that the image is and reads all of it. Everything is
// right, or a documented error; and a store that is refused is as it was.
func (p *prober) probe(x image, format string, args ...any) {
	p.Helper()
	defer func() {
		if r := recover(); r != nil {
			p.Fatalf("%s: %v", fmt.Sprintf(format, args...), r)
		}
	}()
	fs := x.put(p)
	before := allocated()
	answer, err := p.judge(x, fs)
	if err == nil && p.reopen && !p.readOnly && answer == inFull {
		// What recovery did to the files has made nothing wrong. (It may be refused
		// now: not all that is damaged is looked at every time.)
		_, err = p.judge(x, fs)
	}
	if took := allocated() - before; took > 64<<20 && err == nil {
		err = fmt.Errorf("%d bytes of memory", took)
	}
	if err == nil && (p.readOnly || answer == refused) {
		err = p.unchanged(x, fs)
	}
	if err != nil {
		dir := p.keep(fs)
		p.Fatalf("%s, read-only %v: %v\nthe store is in %s", fmt.Sprintf(format, args...), p.readOnly, err, dir)
	}
	p.Answers[answer]++
}

func (p *prober) keep(fs *vfs.Mem) string {
	dir, err := os.MkdirTemp("", "pulk-bad-bytes")
	if err == nil {
		err = fs.Export(dir)
	}
	if err != nil {
		p.Logf("the store could not be kept: %v", err)
	}
	return dir
}

// What a store answered.
const (
	refused = iota
	inPart
	inFull
)

func (p *prober) judge(x image, fs vfs.FS) (answer int, err error) {
	o := badOptions()
	o.ReadOnly = p.readOnly
	d, err := db.Open(imageDir, o.Minute().On(fs))
	p.refusal = err
	if err != nil {
		return refused, documented(err)
	}
	defer func() {
		// Of a damaged page-table snapshot Close may meet what Open did not.
		if cerr := d.Close(); err == nil {
			err = documented(cerr)
		}
	}()
	states, answer := slices.Clone(x.states), inFull
	narrow := func(format string, fits func(map[string]string) bool, args ...any) {
		if states = slices.DeleteFunc(states, func(s map[string]string) bool { return !fits(s) }); len(states) == 0 && err == nil {
			err = fmt.Errorf("wrong: "+format, args...)
		}
	}
	for key := range x.states[0] {
		value, gerr := d.Get([]byte(key))
		switch {
		case errors.Is(gerr, db.ErrNotFound):
			narrow("%q is not found", func(s map[string]string) bool { _, ok := s[key]; return !ok }, key)
		case gerr != nil:
			answer = inPart
			if gerr = documented(gerr); gerr != nil {
				return answer, fmt.Errorf("get %q: %w", key, gerr)
			}
		default:
			narrow("%q is %.40q", func(s map[string]string) bool { v, ok := s[key]; return ok && v == string(value) }, key, value)
		}
	}
	for _, backward := range []bool{false, true} {
		it := d.Scan(nil, nil)
		rows, n := it.All(), 0
		if backward {
			rows = it.Backward()
		}
		for key, value := range rows {
			n++
			if value == nil && it.Err() != nil {
				continue // the value could not be read, and Err says so
			}
			narrow("scan has %q, %.40q", func(s map[string]string) bool { v, ok := s[string(key)]; return ok && v == string(value) }, key, value)
		}
		if it.Err() != nil {
			answer = inPart
			if err := documented(it.Err()); err != nil {
				return answer, fmt.Errorf("scan: %w", err)
			}
			continue
		}
		narrow("scan has %d rows", func(s map[string]string) bool { return len(s) == n }, n)
	}
	verr := d.Verify(context.Background())
	if derr := documented(verr); derr != nil && err == nil {
		err = fmt.Errorf("verify: %w", derr)
	}
	if verr == nil && answer == inPart && err == nil {
		err = errors.New("verify finds nothing wrong in a store that cannot be read")
	}
	return answer, err
}

// documented returns nil for an error that damage is answered with.
func documented(err error) error {
	var corrupt *db.CorruptError
	switch {
	case err == nil, errors.Is(err, db.ErrVersion), errors.Is(err, db.ErrNotStore):
		return nil
	case errors.As(err, &corrupt) && corrupt.File != "" && errors.Is(err, db.ErrCorrupt):
		return nil
	}
	return fmt.Errorf("undocumented: %w", err)
}

// unchanged compares the files with what they were.
func (p *prober) unchanged(x image, fs vfs.FS) error {
	now := takeImage(p, fs)
	for name, data := range x.files {
		if found, ok := now.files[name]; !ok || string(found) != string(data) {
			return fmt.Errorf("%s has changed, or is gone: %v", name, ok)
		}
	}
	return nil
}

// allocated returns how many bytes were ever allocated.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// eachMode calls fn with a prober that opens to write, and one that only reads.
func eachMode(t *testing.T, layer string, fn func(p *prober)) {
	var total crashtest.Damage
	for _, readOnly := range []bool{false, true} {
		p := &prober{TB: t, readOnly: readOnly}
		fn(p)
		total = total.Plus(p.Damage)
	}
	crashtest.ReportDamage(t, layer, total)
}

// stride is how many bytes or lengths of a store of so many are passed over for
// each that is tried: none with PULK_DAMAGE set, else so many that n are tried.
func stride(bytes, n int) int {
	if os.Getenv("PULK_DAMAGE") != "" {
		return 1
	}
	if short() {
		n /= 10
	}
	return max(1, bytes/n)
}

func (x image) bytes() (n int) {
	for _, data := range x.files {
		n += len(data)
	}
	return n
}

// TestBadBytesFlipped changes one byte of a store after the other, now by a bit,
// now wholly.
func TestBadBytesFlipped(t *testing.T) {
	full, _ := fullImage(t)
	rng := rand.New(rand.NewPCG(uint64(crashtest.Seed(t)), 1))
	crashed := crashedImage(t)
	crashed.states = crashed.states[:2]
	for _, x := range []image{full, crashed} {
		eachMode(t, "db", func(p *prober) {
			step := stride(x.bytes(), 800)
			at := rng.IntN(step)
			for _, name := range x.names() {
				data := x.files[name]
				for ; at < len(data); at += step {
					changed := slices.Clone(data)
					mask := byte(1) << rng.IntN(8)
					if rng.IntN(3) == 0 {
						mask = byte(1 + rng.IntN(255))
					}
					changed[at] ^= mask
					p.reopen = at/step%8 == 0
					p.Flipped++
					p.probe(x.with(name, changed), "%s at %d, flipped by %#x", name, at, mask)
				}
				at -= len(data)
			}
		})
	}
}

// TestBadBytesCut cuts each file of a store to each length.
func TestBadBytesCut(t *testing.T) {
	full, _ := fullImage(t)
	rng := rand.New(rand.NewPCG(uint64(crashtest.Seed(t)), 2))
	for _, x := range []image{full, crashedImage(t)} {
		eachMode(t, "db", func(p *prober) {
			step := stride(x.bytes(), 400)
			at := rng.IntN(step)
			for _, name := range x.names() {
				data := x.files[name]
				for ; at < len(data); at += step {
					p.reopen = at/step%8 == 0
					p.Cut++
					p.probe(x.with(name, data[:at:at]), "%s cut to %d of %d bytes", name, at, len(data))
				}
				at -= len(data)
			}
		})
	}
}

// TestBadBytesFiles takes whole files away, swaps them, puts older ones and those
// of another store in their place, and states other format versions.
func TestBadBytesFiles(t *testing.T) {
	x, older := fullImage(t)
	foreign, _ := fullImage(t)
	names := x.names()
	eachMode(t, "db", func(p *prober) {
		try := func(y image, format string, args ...any) {
			p.Files++
			p.reopen = p.Files%8 == 0
			p.probe(y, format, args...)
		}
		try(x, "nothing")
		require.Equal(t, 1, p.Answers[inFull], "%v", p.refusal)
		for i, name := range names {
			try(x.with(name, nil), "%s missing", name)
			try(x.with(name, []byte{}), "%s empty", name)
			try(x.with(name, make([]byte, len(x.files[name]))), "%s zeros", name)
			for _, other := range names[i+1:] {
				try(x.with(name, x.files[other]).with(other, x.files[name]), "%s and %s swapped", name, other)
				try(x.with(name, x.files[other]), "%s is a copy of %s", name, other)
				try(x.with(other, x.files[name]), "%s is a copy of %s", other, name)
			}
			if old, ok := older.files[name]; ok {
				try(x.with(name, old), "%s older", name)
			}
			for other, data := range foreign.files {
				if path.Ext(other) == path.Ext(name) {
					try(x.with(name, data), "%s is %s of another store", name, other)
				}
			}
			for _, version := range []uint32{0, 1, 2, 3, 1 << 31} {
				if changed, ok := setVersion(x.files[name], version); ok {
					try(x.with(name, changed), "%s is of format version %d", name, version)
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(foreign.files)) {
			if _, ok := x.files[name]; !ok {
				try(x.with(name, foreign.files[name]), "%s of another store added", name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(older.files)) {
			if _, ok := x.files[name]; !ok {
				try(x.with(name, older.files[name]), "%s is back", name)
			}
		}
	})
}

// setVersion returns data, a file with the common header, with another format
// version and a good checksum.
func setVersion(data []byte, version uint32) ([]byte, bool) {
	const at = 8
	raised, ok := raiseVersion(string(data))
	if !ok || binary.LittleEndian.Uint32(data[at:]) == version {
		return nil, false
	}
	p := []byte(raised)
	binary.LittleEndian.PutUint32(p[at:], version)
	resealHeader(p)
	return p, true
}
