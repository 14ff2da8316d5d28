package db_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/vfs"
)

// TestSpaceCeiling loads a store, overwrites it, evenly and unevenly, deletes half of
// it and fills it again, and looks at all its files at every few steps: they never
// take more than twice what the rows need and the fixed least. Values of a quarter
// of a page make deletes dear: what a blind one covers is known only when its page
// is merged.
func TestSpaceCeiling(t *testing.T) {
	for _, valueBytes := range []int{100, 400} {
		t.Run(fmt.Sprint(valueBytes), func(t *testing.T) {
			s := newCeiling(t, valueBytes)
			s.phase("load", len(s.rows), func(n int) { s.set(n) })
			s.phase("uniform", 2*len(s.rows), func(int) { s.set(s.random.IntN(len(s.rows))) })
			s.phase("uneven", 2*len(s.rows), func(int) {
				x := s.random.Float64()
				s.set(int(x * x * x * x * float64(len(s.rows))))
			})
			s.phase("delete", len(s.rows)/2, func(n int) { s.delete(2 * n) })
			s.phase("refill", len(s.rows)/2, func(n int) { s.set(2 * n) })
			require.NotZero(t, s.db.Metrics().Space.Cleaned)
			s.checkRows()
			s.reopen()
			s.checkRows()
			s.phase("reopened", len(s.rows), func(int) { s.set(s.random.IntN(len(s.rows))) })
			s.checkRows()
			require.NoError(t, s.db.Close())
		})
	}
}

const (
	ceilingSegmentBytes = 32 << 10
	ceilingDataBytes    = 512 << 10
	ceilingKeyBytes     = 6
	// The fixed least: segments, and what no file can be smaller than.
	ceilingLeast = 16 * ceilingSegmentBytes
	// Bytes that a row takes in a page beside key and value, at most.
	ceilingRowOverhead = 24
)

type ceiling struct {
	*testing.T
	db         *db.DB
	opts       *db.Options
	fsys       *vfs.Mem
	random     *rand.Rand
	valueBytes int
	rows       []int // version of each, 0: absent
	live       int
	version    int
}

func newCeiling(t *testing.T, valueBytes int) *ceiling {
	s := &ceiling{T: t, fsys: vfs.NewMem(), random: rand.New(rand.NewPCG(3, uint64(valueBytes))), valueBytes: valueBytes}
	s.rows = make([]int, ceilingDataBytes/(valueBytes+ceilingKeyBytes))
	o := db.Options{Logger: quiet().Logger, CacheSize: 256 << 10, Durability: db.DurabilityNone}
	s.opts = o.Spacious(ceilingSegmentBytes).On(s.fsys)
	s.reopen()
	return s
}

func (s *ceiling) reopen() {
	if s.db != nil {
		require.NoError(s, s.db.Close())
	}
	var err error
	s.db, err = db.Open("store", s.opts)
	require.NoError(s, err)
}

func (s *ceiling) key(i int) []byte { return fmt.Appendf(nil, "%06d", i*7919%len(s.rows)) }

func (s *ceiling) value(i int) string {
	return strings.Repeat(fmt.Sprintf("%d.%d,", i, s.rows[i]), s.valueBytes)[:s.valueBytes]
}

func (s *ceiling) set(i int) {
	if s.rows[i] == 0 {
		s.live++
	}
	s.version++
	s.rows[i] = s.version
	require.NoError(s, s.db.Set(s.key(i), []byte(s.value(i))))
}

func (s *ceiling) delete(i int) {
	s.live--
	s.rows[i] = 0
	require.NoError(s, s.db.Delete(s.key(i)))
}

// phase takes n steps in random order and looks at the files all the time.
func (s *ceiling) phase(name string, n int, step func(n int)) {
	largest, ratio := 0, 0.0
	for i, k := range s.random.Perm(n) {
		step(k)
		if i%16 != 0 {
			continue
		}
		files := s.fileBytes()
		live := s.live * (s.valueBytes + ceilingKeyBytes + ceilingRowOverhead)
		largest = max(largest, files-2*live)
		ratio = max(ratio, float64(files)/float64(live+ceilingLeast))
		require.LessOrEqual(s, files, 2*live+ceilingLeast, "%s, step %d of %d: %d bytes live\n%+v", name, i, n, live, s.db.Metrics().Space)
	}
	m := s.db.Metrics().Space
	s.Logf("%s: %d bytes at most above twice the live data (%d allowed), %d segments cleaned, writers held up %d times, %v", name, largest, ceilingLeast, m.Cleaned, m.SlowedWrites, m.SlowedTime)
}

func (s *ceiling) fileBytes() (sum int) {
	names, err := s.fsys.ReadDir("store")
	require.NoError(s, err)
	for _, name := range names {
		if size, _, err := s.fsys.Stat("store/" + name); err == nil { // or it is gone by now
			sum += int(size)
		}
	}
	return sum
}

func (s *ceiling) checkRows() {
	require.NoError(s, s.db.CheckTree())
	for i := range s.rows {
		value, err := s.db.Get(s.key(i))
		if s.rows[i] == 0 {
			require.ErrorIs(s, err, db.ErrNotFound)
			continue
		}
		require.NoError(s, err)
		require.Equal(s, s.value(i), string(value))
	}
}

// TestPaceEnds: a store that is written to as fast as it can be comes to rest when
// the writers do: the cleaner ends its work, and the next write is not held up.
// It was that a store of a few segments never got below what made it slow writers.
func TestPaceEnds(t *testing.T) {
	fsys := vfs.NewMem()
	o := db.Options{Logger: quiet().Logger, CacheSize: 256 << 10, Durability: db.DurabilityNone}
	d, err := db.Open("store", o.Tiny().On(fsys))
	require.NoError(t, err)
	defer d.Close()
	for round := range 3 {
		for i := range 3000 {
			require.NoError(t, d.Set(fmt.Appendf(nil, "%03d", i%300), []byte(strings.Repeat("v", 100+round))))
		}
		require.Eventually(t, func() bool {
			before := d.Metrics()
			time.Sleep(50 * time.Millisecond)
			after := d.Metrics()
			return before.Space.MovedPages == after.Space.MovedPages && before.Pages.Snapshots == after.Pages.Snapshots
		}, 20*time.Second, time.Millisecond, "the cleaner has no end")
		m := d.Metrics().Space
		require.LessOrEqual(t, m.Bytes, m.Goal)
		require.NoError(t, d.Set([]byte("one"), []byte("more")))
		require.Equal(t, m.SlowedWrites, d.Metrics().Space.SlowedWrites)
	}
}

// TestCleanerRests: a store of which nearly all was deleted comes to rest. It was that the
// cleaner moved the records of freed pages for ever: files that wait to be reused, which
// it cannot make less, were more than it wanted to leave.
func TestCleanerRests(t *testing.T) {
	o := db.Options{Logger: quiet().Logger, CacheSize: 1 << 20, Durability: db.DurabilityNone}
	d, err := db.Open("store", o.Tiny().On(vfs.NewMem()))
	require.NoError(t, err)
	defer d.Close()
	for round := range 4 {
		for i := range 4000 {
			require.NoError(t, d.Set(fmt.Appendf(nil, "%05d", i), []byte(strings.Repeat("v", 200+round))))
		}
		require.NoError(t, d.DeleteRange(nil, nil))
		require.Eventually(t, func() bool {
			before := d.Metrics()
			time.Sleep(50 * time.Millisecond)
			after := d.Metrics()
			return before.Space.MovedPages == after.Space.MovedPages && before.Pages.Snapshots == after.Pages.Snapshots
		}, 20*time.Second, time.Millisecond, "the cleaner has no end")
	}
}

// TestSpaceTarget: a store whose target is larger takes more space and writes less.
func TestSpaceTarget(t *testing.T) {
	written := func(target int) uint64 {
		o := db.Options{Logger: quiet().Logger, CacheSize: 256 << 10, Durability: db.DurabilityNone, SpaceTarget: target}
		d, err := db.Open("store", o.Spacious(16<<10).On(vfs.NewMem()))
		require.NoError(t, err)
		defer d.Close()
		random := rand.New(rand.NewPCG(1, 1))
		value := []byte(strings.Repeat("v", 100))
		for range 8000 {
			require.NoError(t, d.Set(fmt.Appendf(nil, "%05d", random.IntN(4000)), value))
		}
		return d.Metrics().Disk.BytesWritten
	}
	tight, wide := written(150), written(300)
	t.Logf("%d bytes written at 150 percent, %d at 300", tight, wide)
	require.Less(t, wide, tight)
	_, err := db.Open("store", (&db.Options{SpaceTarget: 100, Logger: quiet().Logger}).On(vfs.NewMem()))
	require.ErrorIs(t, err, db.ErrInvalidOptions)
}
