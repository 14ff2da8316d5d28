package db_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// salvageInto is beside the image's store.
const salvageInto = "into"

// salvaged salvages the image and returns what came out.
func salvaged(t testing.TB, x image) (*db.SalvageReport, map[string]string) {
	t.Helper()
	fs := x.put(t)
	report, err := db.Salvage(context.Background(), imageDir, salvageInto, ptr(badOptions()).Minute().On(fs))
	require.NoError(t, err)
	for name, data := range x.files {
		require.Equal(t, string(data), string(takeImage(t, fs).files[name]), "%s has changed", name)
	}
	d, err := db.Open(salvageInto, ptr(badOptions()).Minute().On(fs))
	require.NoError(t, err)
	got := map[string]string{}
	it := d.Scan(nil, nil)
	for key, value := range it.All() {
		got[string(key)] = string(value)
	}
	require.NoError(t, it.Err())
	require.NoError(t, d.Close())
	require.EqualValues(t, len(got), report.Keys)
	return report, got
}

func TestSalvageWhole(t *testing.T) {
	x, _ := fullImage(t)
	report, got := salvaged(t, x)
	require.Empty(t, report.Damage)
	require.True(t, report.Whole(), "%v", report.Lost)
	require.Equal(t, x.states[0], got)
}

// randomImage returns a store after random steps, among them batches and erased
// ranges of keys enough for splits and joins. It was closed, or killed after a sync:
// then nothing marks the end of its log.
func randomImage(t testing.TB, rng *rand.Rand) (x image, killed bool) {
	fs := vfs.NewMem()
	want, had := crashtest.State{}, map[string]map[string]bool{}
	note := func() {
		for i := range 90 {
			key := fmt.Sprintf("%03d", i)
			if had[key] == nil {
				had[key] = map[string]bool{}
			}
			had[key][want[key]] = true
		}
	}
	killed = rng.IntN(2) == 0
	for rounds := 1 + rng.IntN(3); rounds > 0; rounds-- {
		o := badOptions()
		o.Durability = db.DurabilityNone
		if rng.IntN(2) == 0 {
			o.Compression = db.CompressionZstd
		}
		d, err := db.Open(imageDir, o.Minute().On(fs))
		require.NoError(t, err)
		for range 20 + rng.IntN(150) {
			step := crashtest.Step{Seed: rng.Uint64()}
			p := planPower(step)
			if p.how == 0 || len(p.ops) == 1 {
				err = writeOps(d, p.ops)
			} else {
				b := d.NewBatch()
				err = errors.Join(writeOps(b, p.ops), b.Commit())
			}
			require.NoError(t, err)
			applyPower(want, step)
			note()
		}
		// What is written last has a mark for all before it.
		require.NoError(t, d.Sync())
		want["000"] = "last"
		note()
		require.NoError(t, d.Set([]byte("000"), []byte("last")))
		require.NoError(t, d.Sync())
		if rounds == 1 && killed {
			x = takeImage(t, fs.CrashClone(rng.Int64()), maps.Clone(want))
		}
		require.NoError(t, d.Close())
	}
	if !killed {
		x = takeImage(t, fs, maps.Clone(want))
	}
	x.had = had
	return x, killed
}

// damagedImage returns the image after n damages, and what they are. If its
// page-table snapshots are among what is damaged, or it was killed, nothing is taken
// from the ends of streams: nobody would miss it.
func damagedImage(x image, rng *rand.Rand, killed bool, n int) (y image, what string) {
	y = image{maps.Clone(x.files), x.states, x.had}
	names := x.names()
	var newest [2][4]string // of each stream: some may hold nothing that is durable
	for _, name := range names {
		if data := x.files[name]; path.Ext(name) == ".seg" && bytes.HasPrefix(data, []byte("pulkseg")) {
			s := &newest[data[104]]
			copy(s[:], s[1:])
			s[len(s)-1] = name
		}
	}
	snapshots := rng.IntN(2) == 0
	for range n {
		name := names[rng.IntN(len(names))]
		data := slices.Clone(y.files[name])
		isSnapshot := path.Ext(name) == ".snap"
		if len(data) == 0 || isSnapshot && !snapshots || (snapshots || killed) && (slices.Contains(newest[0][:], name) || slices.Contains(newest[1][:], name)) {
			continue
		}
		at := rng.IntN(len(data))
		switch rng.IntN(6) {
		case 0, 1:
			data[at] ^= byte(1 + rng.IntN(255))
			what += fmt.Sprintf("%s changed at %d; ", name, at)
		case 2:
			clear(data[at:min(at+600, len(data))])
			what += fmt.Sprintf("%s zeroed at %d; ", name, at)
		case 3:
			data[rng.IntN(min(128, len(data)))] ^= 0x40
			what += fmt.Sprintf("%s changed in its header; ", name)
		case 4:
			data = data[:at]
			what += fmt.Sprintf("%s cut at %d; ", name, at)
		case 5:
			delete(y.files, name)
			what += fmt.Sprintf("%s missing; ", name)
			continue
		}
		y.files[name] = data
	}
	return y, what
}

// known reports whether a header of the store is left, without which there is no
// telling how long its segments are.
func (x image) known() bool {
	for name, data := range x.files {
		if name == "STORE" || path.Ext(name) == ".seg" {
			const end = 124
			if len(data) >= 128 && crc32.Checksum(data[:end], crc32.MakeTable(crc32.Castagnoli)) == binary.LittleEndian.Uint32(data[end:]) {
				return true
			}
		}
	}
	return false
}

// TestSalvageDamaged damages a store at random. What comes out of each key is a
// value that it had; and where the report says nothing of a key, it has the newest.
func TestSalvageDamaged(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(crashtest.Seed(t)), 3))
	n := 150
	if short() {
		n = 15
	}
	if os.Getenv("PULK_DAMAGE") != "" {
		n = 5000
	}
	var x image
	var killed bool
	var damage crashtest.Damage
	var keys, newest, sure, all int
	for i := range n {
		switch {
		case i%60 == 0:
			x, _ = fullImage(t)
			killed = false
		case i%20 == 0:
			x, killed = randomImage(t, rng)
			report, got := salvaged(t, x)
			require.True(t, report.Whole(), "%v %q", report.Lost, report.LostValues)
			require.True(t, maps.Equal(x.states[0], got))
		}
		y, what := damagedImage(x, rng, killed, 1+rng.IntN(6))
		if !y.known() {
			continue
		}
		report, got := salvaged(t, y)
		want := x.states[0]
		for key, value := range got {
			require.True(t, x.had[key][value], "%s: %q never was %.60q", what, key, value)
		}
		for key := range x.had {
			value, is := want[key]
			found, has := got[key]
			lossy := report.Lossy([]byte(key))
			if !lossy {
				require.Equal(t, is, has, "%s: %q", what, key)
				require.Equal(t, value, found, "%s: %q", what, key)
				sure++
			}
			keys++
			if has == is && found == value {
				newest++
			}
		}
		damage.Files++
		if report.Whole() {
			damage.Answers[inFull]++
		} else {
			damage.Answers[inPart]++
		}
		for _, l := range report.Lost {
			if l.Lo == nil && l.Hi == nil {
				all++
			}
		}
	}
	t.Logf("%d stores: %d keys, %.1f%% as they were, %.1f%% surely so; %d stores of which any key may be lost",
		n, keys, 100*float64(newest)/float64(keys), 100*float64(sure)/float64(keys), all)
	crashtest.ReportDamage(t, "salvage", damage)
	require.Greater(t, newest, keys*3/4)
	require.Greater(t, sure, keys/3)
}

// Page-table snapshots, the STORE file and the headers of segments may all be lost:
// the updates are found by themselves.
func TestSalvageHeadless(t *testing.T) {
	x, _ := fullImage(t)
	y := image{map[string][]byte{}, x.states, x.had}
	for name, data := range x.files {
		if path.Ext(name) == ".seg" {
			data = slices.Clone(data)
			copy(data, make([]byte, 128))
			y.files[name] = data
		}
	}
	y.files["0000000000000001.snap"] = []byte("lost")
	fs := y.put(t)
	_, err := db.Salvage(context.Background(), imageDir, salvageInto, ptr(badOptions()).Minute().On(fs))
	require.ErrorIs(t, err, db.ErrNotStore, "nothing says which store it is, or how long its segments are")

	for name, data := range x.files {
		if path.Ext(name) == ".seg" {
			y.files[name] = data // one header is enough
			break
		}
	}
	report, got := salvaged(t, y)
	require.NotEmpty(t, report.Damage)
	require.True(t, maps.Equal(x.states[0], got), "%v", report.Lost)
}

func TestSalvageWithoutMerger(t *testing.T) {
	fs := vfs.NewMem()
	d, err := db.Open(imageDir, ptr(badOptions()).Minute().On(fs))
	require.NoError(t, err)
	require.NoError(t, d.Set([]byte("a"), []byte("1")))
	require.NoError(t, d.Merge([]byte("b"), []byte("2")))
	require.NoError(t, d.Close())
	report, err := db.Salvage(context.Background(), imageDir, salvageInto, ptr(quiet()).Minute().On(fs))
	require.NoError(t, err)
	require.EqualValues(t, 1, report.Keys)
	require.Equal(t, [][]byte{[]byte("b")}, report.LostValues)
	require.False(t, report.Whole())
	require.True(t, report.Lossy([]byte("b")))
	require.False(t, report.Lossy([]byte("a")))
}

func TestSalvageRefuses(t *testing.T) {
	parent := t.TempDir()
	dir, full, none := filepath.Join(parent, "dir"), filepath.Join(parent, "full"), filepath.Join(parent, "none")
	for _, name := range []string{dir, full} {
		d := open(t, name, nil)
		fill(t, d, "a")
		require.NoError(t, d.Close())
	}
	salvage := func(ctx context.Context, dir, into string, opts *db.Options) error {
		report, err := db.Salvage(ctx, dir, into, opts)
		require.Nil(t, report)
		return err
	}
	background := context.Background()
	require.ErrorIs(t, salvage(background, dir, full, nil), fs.ErrExist)
	require.ErrorIs(t, salvage(background, dir, dir, nil), fs.ErrExist)
	// Into a store without rows it was written, and of other files it was said that
	// they are no store.
	empty, file := filepath.Join(parent, "empty"), filepath.Join(parent, "file")
	require.NoError(t, open(t, empty, nil).Close())
	require.NoError(t, os.WriteFile(file, []byte("mine"), 0o666))
	for _, into := range []string{empty, parent, file, filepath.Join(file, "below")} {
		require.ErrorIs(t, salvage(background, dir, into, nil), fs.ErrExist, into)
	}
	require.ErrorIs(t, salvage(background, none, filepath.Join(parent, "new"), nil), db.ErrNotStore)
	require.ErrorIs(t, salvage(background, parent, filepath.Join(parent, "new"), nil), db.ErrNotStore)
	require.ErrorIs(t, salvage(background, dir, filepath.Join(parent, "new"), &db.Options{InMemory: true}), db.ErrInvalidOptions)
	require.NoDirExists(t, filepath.Join(parent, "new"))
	cancelled, cancel := context.WithCancel(background)
	cancel()
	require.ErrorIs(t, salvage(cancelled, dir, filepath.Join(parent, "cancelled"), nil), context.Canceled)
	d := open(t, dir, nil)
	require.ErrorIs(t, salvage(background, dir, filepath.Join(parent, "new"), nil), db.ErrLocked)
	require.Equal(t, "a=A", rows(d.Scan(nil, nil)))
}
