package db_test

import (
	"bytes"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
)

// A suspension stops one goroutine at the n-th yield point that it comes by.
type suspension struct {
	goroutine atomic.Int64 // 0: nobody
	stopAt    int
	passed    int // owned by the goroutine
	reached   chan string
	resume    chan struct{}
}

// current is the suspension that yield points obey.
var current atomic.Pointer[suspension]

func (s *suspension) yield(point string) {
	if strings.HasPrefix(point, "pagecache Load") || point == "log Read" {
		return // whoever needs a page that is being read waits for that one read
	}
	if g := s.goroutine.Load(); g == 0 || g != goroutineID() {
		return
	}
	s.passed++
	if s.passed == s.stopAt {
		s.reached <- point
		<-s.resume
	}
}

// goroutineID returns the number of the calling goroutine, from its stack trace.
func goroutineID() (id int64) {
	var p [64]byte
	n := runtime.Stack(p[:], false)
	fmt.Sscanf(string(p[:n]), "goroutine %d ", &id)
	return id
}

// The rows of a store in which a writer is suspended. The writer is in the upper
// half of the keys, others write to the lower one.
const suspendRows = 240

func suspendKey(i int) string { return fmt.Sprintf("%04d", i) }

// A suspended is a write that is stopped at each of its steps in turn.
type suspended struct {
	name string
	cold bool // the store has just been opened: its leaf is not in memory
	// The write, and what it does to the rows.
	do    func(d *db.DB) error
	model func(rows map[string]string)
	// apart: it is more than one write, so others may see a part.
	apart bool
}

func suspendedWrites() []suspended {
	set := func(keys ...int) func(rows map[string]string) {
		return func(rows map[string]string) {
			for _, k := range keys {
				rows[suspendKey(k)] = "after"
			}
		}
	}
	key := func(i int) []byte { return []byte(suspendKey(i)) }
	after := []byte("after")
	long := strings.Repeat("L", 6<<10)
	return []suspended{
		{name: "Set", do: func(d *db.DB) error { return d.Set(key(200), after) }, model: set(200)},
		{name: "blind Set", cold: true, do: func(d *db.DB) error { return d.Set(key(200), after) }, model: set(200)},
		{name: "Set of a large value",
			do:    func(d *db.DB) error { return d.Set(key(200), []byte(long)) },
			model: func(rows map[string]string) { rows[suspendKey(200)] = long }},
		{name: "Delete", do: func(d *db.DB) error { return d.Delete(key(200)) },
			model: func(rows map[string]string) { delete(rows, suspendKey(200)) }},
		{name: "CompareAndSwap",
			do: func(d *db.DB) error {
				swapped, _, err := d.CompareAndSwap(key(200), []byte(suspendValue(200)), after)
				if !swapped && err == nil {
					err = fmt.Errorf("not swapped")
				}
				return err
			},
			model: set(200)},
		{name: "Merge", do: func(d *db.DB) error { return d.Merge(key(200), after) },
			model: func(rows map[string]string) { rows[suspendKey(200)] += "after" }},
		{name: "Sets that split", apart: true,
			do: func(d *db.DB) error {
				for i := range 12 {
					if err := d.Set(fmt.Appendf(nil, "0200/%02d", i), bytes.Repeat([]byte{'s'}, 60)); err != nil {
						return err
					}
				}
				return nil
			},
			model: func(rows map[string]string) {
				for i := range 12 {
					rows[fmt.Sprintf("0200/%02d", i)] = strings.Repeat("s", 60)
				}
			}},
		{name: "Batch", do: func(d *db.DB) error { return suspendBatch(d, after, 130, 170, 171, 200, 239) },
			model: set(130, 170, 171, 200, 239)},
		{name: "blind Batch", cold: true, do: func(d *db.DB) error { return suspendBatch(d, after, 130, 170, 200) },
			model: set(130, 170, 200)},
		{name: "Batch of many records", do: func(d *db.DB) error { return suspendBatch(d, []byte(long), 130, 150, 170, 190, 210, 230) },
			model: func(rows map[string]string) {
				for _, k := range []int{130, 150, 170, 190, 210, 230} {
					rows[suspendKey(k)] = long
				}
			}},
		{name: "DeleteRange", do: func(d *db.DB) error { return d.DeleteRange(key(150), key(220)) },
			model: func(rows map[string]string) {
				maps.DeleteFunc(rows, func(k, _ string) bool { return k >= "0150" && k < "0220" })
			}},
		{name: "Update",
			do: func(d *db.DB) error {
				return d.Update(func(tx *db.Tx) error {
					if _, err := total0(tx.Scan(key(125), key(160))); err != nil {
						return err
					}
					if _, err := tx.Get(key(239)); err != nil {
						return err
					}
					for _, k := range []int{140, 200} {
						if err := tx.Set(key(k), after); err != nil {
							return err
						}
					}
					return tx.DeleteRange(key(210), key(215))
				})
			},
			model: func(rows map[string]string) {
				set(140, 200)(rows)
				maps.DeleteFunc(rows, func(k, _ string) bool { return k >= "0210" && k < "0215" })
			}},
	}
}

func suspendValue(i int) string { return fmt.Sprintf("before %d %030d", i, i) }

func suspendBatch(d *db.DB, value []byte, keys ...int) error {
	b := d.NewBatch()
	for _, k := range keys {
		if err := b.Set([]byte(suspendKey(k)), value); err != nil {
			return err
		}
	}
	return b.Commit()
}

// total0 counts rows.
func total0(it walker) (n int, err error) {
	for it.Next() {
		n++
	}
	return n, it.Close()
}

// TestSuspendedWriter stops a writer at each of its steps in turn, in every
// package, and for as long as it takes everybody else to read everything in every
// way and to write to other leaves. So readers wait for no writer, at whatever
// step, and a writer only for who holds the very page.
func TestSuspendedWriter(t *testing.T) {
	testhooks.SetYield(func(point string) {
		if s := current.Load(); s != nil {
			s.yield(point)
		}
	})
	defer testhooks.SetYield(nil)
	points := map[string]int{}
	for _, w := range suspendedWrites() {
		t.Run(w.name, func(t *testing.T) {
			var steps []string
			for n := 1; ; n++ {
				point := w.suspend(t, n)
				if point == "" {
					break
				}
				points[point]++
				steps = append(steps, point)
				if t.Failed() {
					break
				}
			}
			t.Logf("%d steps: %s", len(steps), strings.Join(steps, ", "))
			require.NotEmpty(t, steps)
		})
	}
	t.Logf("%v", points)
	if !t.Failed() {
		for _, point := range []string{
			"tree BlindParent", "tree BlindRouted", "tree SplitPlanned", "tree SplitParent", "tree BatchOwned", "tree UpdateRouted", "tree CommitOwned",
			"pagecache AppendPublish", "pagecache UpdatePart", "pagecache UpdateFresh", "pagecache UpdatePublish", "pagecache UpdateReady",
			"log Reserve", "log Complete",
		} {
			require.NotZero(t, points[point], "no writer was stopped at %s", point)
		}
	}
}

// suspend runs the write and stops it at its n-th step, whose name it returns; ""
// if it has none.
func (w *suspended) suspend(t *testing.T, n int) string {
	fsys := vfs.NewMem()
	opts := db.Options{Durability: db.DurabilityNone, Merger: concat}.Tiny().On(fsys)
	d, err := db.Open("store", opts)
	require.NoError(t, err)
	before := map[string]string{}
	b := d.NewBatch()
	for i := range suspendRows {
		before[suspendKey(i)] = suspendValue(i)
		require.NoError(t, b.Set([]byte(suspendKey(i)), []byte(suspendValue(i))))
	}
	require.NoError(t, b.Commit())
	if w.cold {
		require.NoError(t, d.Close())
		d, err = db.Open("store", opts)
		require.NoError(t, err)
		for _, k := range []int{100, 120, 140, 160, 185, 215, 230} { // the inner nodes are
			_, err = d.Get([]byte(suspendKey(k)))
			require.NoError(t, err)
		}
	}
	after := maps.Clone(before)
	w.model(after)

	s := &suspension{stopAt: n, reached: make(chan string), resume: make(chan struct{})}
	current.Store(s)
	defer current.Store(nil)
	result := make(chan error, 1)
	go func() {
		s.goroutine.Store(goroutineID())
		err := w.do(d)
		s.goroutine.Store(0)
		result <- err
	}()
	point := ""
	select {
	case point = <-s.reached:
		done := make(chan error, 1)
		go func() { done <- w.others(d, before, after) }()
		select {
		case err := <-done:
			close(s.resume)
			require.NoError(t, err, "writer at step %d, %s", n, point)
		case <-time.After(suspendTimeout):
			t.Errorf("others wait for the writer at step %d, %s:\n%s", n, point, stackWith("writeOthers", "readAll"))
			close(s.resume)
			require.NoError(t, <-done, "writer resumed at step %d, %s", n, point)
		}
		require.NoError(t, <-result, "writer after step %d, %s", n, point)
	case err := <-result:
		require.NoError(t, err)
		require.NoError(t, w.others(d, before, after))
	}
	require.NoError(t, sameAs(d.Scan(nil, nil), false, othersWrote(after)), "after step %d, %s", n, point)
	require.NoError(t, d.CheckTree(), "after step %d, %s", n, point)
	require.NoError(t, d.Close())
	return point
}

// suspendTimeout is how long others may take; they need milliseconds.
const suspendTimeout = 3 * time.Second

// stackWith returns the top of the stack of a goroutine that is in one of the
// functions.
func stackWith(functions ...string) string {
	p := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(p[:runtime.Stack(p, true)]), "\n\n") {
		for _, f := range functions {
			if strings.Contains(stack, f+"(") {
				lines := strings.Split(stack, "\n")
				return strings.Join(lines[:min(len(lines), 14)], "\n")
			}
		}
	}
	return ""
}

// others does what must not wait: reads everything in every way, and writes in
// the lower half.
func (w *suspended) others(d *db.DB, before, after map[string]string) error {
	if err := w.readAll(d, before, after); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if err := writeOthers(d); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if err := w.readAll(d, othersWrote(before), othersWrote(after)); err != nil {
		return fmt.Errorf("reading what others wrote: %w", err)
	}
	return nil
}

func (w *suspended) readAll(d *db.DB, before, after map[string]string) error {
	for key := range before {
		value, err := d.Get([]byte(key))
		if err == db.ErrNotFound && after[key] == "" {
			continue
		}
		if err != nil {
			return fmt.Errorf("Get %s: %w", key, err)
		}
		if s := string(value); s != before[key] && s != after[key] {
			return fmt.Errorf("Get %s: %.40q", key, s)
		}
	}
	s := d.Snapshot()
	defer s.Close()
	if err := w.either(before, after, func(want map[string]string) error {
		if err := sameAs(s.Scan(nil, nil), false, want); err != nil {
			return err
		}
		for key, value := range want {
			got, err := s.Get([]byte(key))
			if err != nil || string(got) != value {
				return fmt.Errorf("Snapshot.Get %s: %.40q, %v", key, got, err)
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if err := w.either(before, after, func(want map[string]string) error { return sameAs(d.Scan(nil, nil), true, want) }); err != nil {
		return fmt.Errorf("iterator: %w", err)
	}
	err := d.View(func(tx *db.Tx) error {
		return w.either(before, after, func(want map[string]string) error { return sameAs(tx.Scan(nil, nil), false, want) })
	})
	if err != nil {
		return fmt.Errorf("view: %w", err)
	}
	return nil
}

// either reports an error unless check is content with the rows before the write
// or with those after it.
func (w *suspended) either(before, after map[string]string, check func(want map[string]string) error) error {
	err := check(before)
	if err == nil || check(after) == nil {
		return nil
	}
	if w.apart {
		return nil
	}
	return err
}

// sameAs compares an iterator's rows and closes it.
func sameAs(it walker, back bool, want map[string]string) error {
	defer it.Close()
	keys := slices.Sorted(maps.Keys(want))
	move := it.Next
	if back {
		slices.Reverse(keys)
		move = it.Prev
	}
	for _, key := range keys {
		if !move() || string(it.Key()) != key || string(it.Value()) != want[key] {
			return fmt.Errorf("at %s: %s = %.40q, %v", key, it.Key(), it.Value(), it.Err())
		}
	}
	if move() {
		return fmt.Errorf("%s behind the last key", it.Key())
	}
	return it.Close()
}

// writeOthers writes to leaves that the suspended writer has nothing to do with.
func writeOthers(d *db.DB) error {
	value := func(i int) []byte { return []byte("others" + suspendValue(i)[6:]) }
	for _, i := range []int{3, 40} {
		if err := d.Set([]byte(suspendKey(i)), value(i)); err != nil {
			return err
		}
	}
	if err := d.Delete([]byte(suspendKey(20))); err != nil {
		return err
	}
	if err := d.Merge([]byte(suspendKey(60)), []byte("+")); err != nil {
		return err
	}
	if err := suspendBatch(d, []byte("others"), 10, 50, 80); err != nil {
		return err
	}
	err := d.Update(func(tx *db.Tx) error {
		if _, err := total0(tx.Scan([]byte(suspendKey(5)), []byte(suspendKey(70)))); err != nil {
			return err
		}
		return tx.Set([]byte(suspendKey(66)), []byte("others"))
	})
	if err != nil {
		return err
	}
	return d.DeleteRange([]byte(suspendKey(30)), []byte(suspendKey(35)))
}

// othersWrote returns the rows with what writeOthers does. Done twice it is the
// same but for the merge, so that is done once.
func othersWrote(rows map[string]string) map[string]string {
	rows = maps.Clone(rows)
	for _, i := range []int{3, 40} {
		rows[suspendKey(i)] = "others" + suspendValue(i)[6:]
	}
	delete(rows, suspendKey(20))
	rows[suspendKey(60)] += "+"
	for _, i := range []int{10, 50, 80, 66} {
		rows[suspendKey(i)] = "others"
	}
	maps.DeleteFunc(rows, func(k, _ string) bool { return k >= suspendKey(30) && k < suspendKey(35) })
	return rows
}
