package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
	"github.com/stretchr/testify/require"
)

const testDir = "store"

var testStore = [16]byte{1, 2, 3}

func newFS(t testing.TB) *vfs.Mem {
	t.Helper()
	fs := vfs.NewMem()
	require.NoError(t, fs.MkdirAll(testDir))
	require.NoError(t, fs.SyncDir(testDir))
	require.NoError(t, fs.SyncDir("."))
	return fs
}

func exampleHeader() Header {
	return Header{
		Identity:    Identity{StoreID: testStore, Incarnation: 4, Sequence: 1},
		ReplayStart: log.Marks{1 << 30, 1 << 29}, DurableMark: log.Marks{1<<30 + 7, 1<<29 + 9}, MaxPID: 1 << 20, Clock: 99,
		Recovery: []Recovery{{Tree: 0, Generation: 3, PID: 1, State: []byte("root")}, {Tree: 7, PID: 2}},
		Segments: []SegmentRef{{Base: 1 << 26, Incarnation: 3}, {Base: 1 << 27, Incarnation: 4}},
	}
}

// randomSlots returns n slots with up to 2*positions-1 positions each.
func randomSlots(n, positions int, seed uint64) []Slot {
	rng := rand.New(rand.NewPCG(seed, 0))
	slots := make([]Slot, n)
	pid := log.PID(rng.IntN(3))
	base := log.LSN(1 << 20)
	for i := range slots {
		s := Slot{PID: pid, State: Used, Version: uint64(rng.IntN(1000)), Stamp: rng.Uint64N(1 << 20)}
		pid += 1 + log.PID(rng.IntN(10)/9)
		base = 1<<20 + log.LSN(rng.Int64N(4<<30))
		count := 1 + rng.IntN(2*positions-1)
		if rng.IntN(50) == 0 {
			s.State, s.Flags = Free, uint8(rng.IntN(4))
			count = rng.IntN(2)
		}
		lsn := base
		for range count {
			s.Positions = append(s.Positions, log.Position{LSN: lsn, Size: uint32(40 + rng.IntN(4000))})
			lsn += log.LSN(rng.Int64N(64 << 20))
		}
		slots[i] = s
	}
	return slots
}

func write(fs vfs.FS, h Header, slots []Slot) error {
	_, err := writeFile(fs, h, slots)
	return err
}

// writeFile is write, and says what a difference needs to build on the file.
func writeFile(fs vfs.FS, h Header, slots []Slot) (File, error) {
	w, err := Create(fs, testDir, h.Identity)
	if err != nil {
		return File{}, err
	}
	for _, s := range slots {
		if err := w.Add(s); err != nil {
			w.Discard()
			return File{}, err
		}
	}
	err = w.Commit(h)
	return w.File(), err
}

// headerOf returns a header whose facts differ for each sequence.
func headerOf(sequence uint64) Header {
	h := exampleHeader()
	h.Sequence = sequence
	h.Clock = sequence * 1000
	return h
}

type loaded struct {
	header Header
	files  []File
	slots  []Slot
	found  bool
	warned int
}

func load(fs vfs.FS) (loaded, error) {
	var l loaded
	var text bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&text, nil))
	var mu sync.Mutex
	slots := map[log.PID]Slot{}
	var err error
	l.header, l.found, err = Load(fs, testDir, testStore, logger, Sink{
		Accept: func(_ Header, files []File) error {
			clear(slots)
			l.files = files
			return nil
		},
		Slot: func(_ int, s Slot) error {
			s.Positions = slices.Clone(s.Positions)
			if len(s.Positions) == 0 {
				s.Positions = nil
			}
			mu.Lock()
			defer mu.Unlock()
			slots[s.PID] = s
			return nil
		}})
	l.warned = bytes.Count(text.Bytes(), []byte("level=WARN"))
	for _, pid := range slices.Sorted(maps.Keys(slots)) {
		l.slots = append(l.slots, slots[pid])
	}
	return l, err
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000, 30_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			fs := newFS(t)
			slots := randomSlots(n, 3, uint64(n))
			require.NoError(t, write(fs, exampleHeader(), slots))
			got, err := load(fs)
			require.NoError(t, err)
			require.True(t, got.found)
			require.Zero(t, got.warned)
			require.Equal(t, exampleHeader(), got.header)
			require.Len(t, got.slots, n)
			for i := range slots {
				require.Equal(t, slots[i], got.slots[i])
			}
		})
	}
}

func TestLargestSlot(t *testing.T) {
	fs := newFS(t)
	s := Slot{PID: 1, State: Used, Positions: make([]log.Position, maxPositions)}
	for i := range s.Positions {
		s.Positions[i] = log.Position{LSN: log.LSN(i%2) * (1 << 62), Size: 1<<32 - 1}
	}
	small := Slot{PID: 2, State: Used, Positions: s.Positions[:1]}
	require.NoError(t, write(fs, exampleHeader(), []Slot{s, small}))
	got, err := load(fs)
	require.NoError(t, err)
	require.Equal(t, []Slot{s, small}, got.slots)
}

func TestLoadOfNothing(t *testing.T) {
	for _, fs := range []vfs.FS{vfs.NewMem(), newFS(t)} {
		got, err := load(fs)
		require.NoError(t, err)
		require.False(t, got.found)
	}
}

func TestWriterRefuses(t *testing.T) {
	position := []log.Position{{LSN: 1, Size: 1}}
	for name, c := range map[string]struct {
		slots []Slot
		want  error
	}{
		"same PID":           {[]Slot{{PID: 1, State: Free}, {PID: 1, State: Free}}, ErrOrder},
		"descending":         {[]Slot{{PID: 2, State: Free}, {PID: 1, State: Free}}, ErrOrder},
		"above max PID":      {[]Slot{{PID: 1<<20 + 1, State: Free}}, ErrOrder},
		"no state":           {[]Slot{{PID: 1, Positions: position}}, ErrSlot},
		"unknown state":      {[]Slot{{PID: 1, State: 3, Positions: position}}, ErrSlot},
		"used, no position":  {[]Slot{{PID: 1, State: Used}}, ErrSlot},
		"too many positions": {[]Slot{{PID: 1, State: Used, Positions: make([]log.Position, maxPositions+1)}}, ErrSlot},
	} {
		fs := newFS(t)
		require.ErrorIs(t, write(fs, exampleHeader(), c.slots), c.want, name)
		names, err := fs.ReadDir(testDir)
		require.NoError(t, err)
		require.Empty(t, names, name)
	}
}

func TestFinishedWriter(t *testing.T) {
	fs := newFS(t)
	w, err := Create(fs, testDir, exampleHeader().Identity)
	require.NoError(t, err)
	require.NoError(t, w.Commit(exampleHeader()))
	require.ErrorIs(t, w.Add(Slot{PID: 1, State: Free}), ErrDone)
	require.ErrorIs(t, w.Commit(exampleHeader()), ErrDone)
	w.Discard()
	got, err := load(fs)
	require.NoError(t, err)
	require.True(t, got.found)
}

func TestNewestWins(t *testing.T) {
	fs := newFS(t)
	for _, sequence := range []uint64{9, 10, 0xffff} {
		require.NoError(t, write(fs, headerOf(sequence), randomSlots(10, 3, sequence)))
	}
	infos, err := List(fs, testDir)
	require.NoError(t, err)
	require.Len(t, infos, 3)
	require.EqualValues(t, 0xffff, infos[0].Sequence)
	require.Equal(t, testDir+"/000000000000ffff.snap", infos[0].Name)
	got, err := load(fs)
	require.NoError(t, err)
	require.Equal(t, headerOf(0xffff), got.header)
}

func TestRefusedAndFatal(t *testing.T) {
	fs := newFS(t)
	for sequence := range uint64(3) {
		require.NoError(t, write(fs, headerOf(sequence+1), randomSlots(5, 3, sequence)))
	}
	accept := func(h Header, _ []File) error {
		if h.Sequence > 1 {
			return fmt.Errorf("segment is gone: %w", ErrRefused)
		}
		return nil
	}
	h, found, err := Load(fs, testDir, testStore, nil, Sink{Accept: accept})
	require.NoError(t, err)
	require.True(t, found)
	require.EqualValues(t, 1, h.Sequence)

	fatal := errors.New("out of memory")
	_, found, err = Load(fs, testDir, testStore, nil, Sink{Accept: func(Header, []File) error { return fatal }})
	require.Equal(t, fatal, err)
	require.False(t, found)
	_, found, err = Load(fs, testDir, testStore, nil, Sink{Slot: func(int, Slot) error { return fatal }})
	require.Equal(t, fatal, err)
	require.False(t, found)
}

func TestOtherStoreAndOtherName(t *testing.T) {
	fs := newFS(t)
	other := headerOf(5)
	other.StoreID = [16]byte{9}
	require.NoError(t, write(fs, headerOf(1), nil))
	require.NoError(t, write(fs, other, nil))
	require.NoError(t, write(fs, headerOf(2), nil))
	require.NoError(t, fs.Rename(fileName(testDir, 2, suffix), fileName(testDir, 6, suffix)))
	got, err := load(fs)
	require.NoError(t, err)
	require.EqualValues(t, 1, got.header.Sequence)
	require.Equal(t, 2, got.warned)
}

// TestFutureVersionIsNotSkipped (S6).
func TestFutureVersionIsNotSkipped(t *testing.T) {
	fs := newFS(t)
	require.NoError(t, write(fs, headerOf(1), nil))
	require.NoError(t, write(fs, headerOf(2), nil))
	p := readAll(t, fs, 2)
	p[8] = 77
	fixHeader(p)
	overwrite(t, fs, 2, p)
	got, err := load(fs)
	require.ErrorIs(t, err, log.ErrVersion)
	require.NotErrorIs(t, err, log.ErrCorrupt)
	require.False(t, got.found)
}

func TestRemoveOthers(t *testing.T) {
	fs := newFS(t)
	for sequence := range uint64(5) {
		require.NoError(t, write(fs, headerOf(sequence), nil))
	}
	w, err := Create(fs, testDir, headerOf(9).Identity) // left over by a crash
	require.NoError(t, err)
	require.NoError(t, w.file.Close())
	other, err := fs.OpenFile(testDir+"/STORE", os.O_CREATE|os.O_RDWR, 0o644)
	require.NoError(t, err)
	require.NoError(t, other.Close())
	require.NoError(t, RemoveOthers(fs, testDir, []uint64{3, 4}))
	names, err := fs.ReadDir(testDir)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"0000000000000003.snap", "0000000000000004.snap", "STORE"}, names)
	require.NoError(t, RemoveOthers(fs, testDir, []uint64{4}))
	got, err := load(fs)
	require.NoError(t, err)
	require.EqualValues(t, 4, got.header.Sequence)
}

func TestParseName(t *testing.T) {
	for name, want := range map[string]bool{
		"0000000000000001.snap":     true,
		"00000000000000ff.snap":     true,
		"00000000000000FF.snap":     false,
		"1.snap":                    false,
		"000000000000000g.snap":     false,
		"0000000000000001.snap.tmp": false,
		"+000000000000001.snap":     false,
		"0000000000000001":          false,
	} {
		_, ok := parseName(name, suffix)
		require.Equal(t, want, ok, name)
	}
}

func readAll(t testing.TB, fs vfs.FS, sequence uint64) []byte {
	t.Helper()
	f, err := fs.OpenFile(fileName(testDir, sequence, suffix), os.O_RDONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	size, err := f.Size()
	require.NoError(t, err)
	p, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	require.NoError(t, err)
	return p
}

func overwrite(t testing.TB, fs vfs.FS, sequence uint64, p []byte) {
	t.Helper()
	f, err := fs.OpenFile(fileName(testDir, sequence, suffix), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	require.NoError(t, err)
	_, err = f.WriteAt(p, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

type modeFS struct {
	*vfs.Mem
	mode os.FileMode
}

func (f *modeFS) OpenFile(name string, flag int, mode os.FileMode) (vfs.File, error) {
	f.mode = mode
	return f.Mem.OpenFile(name, flag, mode)
}

// TestMode: of all files of a store snapshots alone were closed to the group, whatever the
// umask: another of its members could not write over what a crash had left of one.
func TestMode(t *testing.T) {
	fs := &modeFS{Mem: newFS(t)}
	w, err := Create(fs, testDir, exampleHeader().Identity)
	require.NoError(t, err)
	w.Discard()
	require.Equal(t, os.FileMode(0o666), fs.mode)
}
