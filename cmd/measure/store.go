package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/workload"
)

// A store is what the phases work on.
type store struct {
	db      *db.DB
	rows    *workload.Rows
	config  config
	zipf    *workload.Zipf // made when first needed
	version atomic.Uint64
	stream  uint64 // numbers the uses of random
}

func openStore(c config) (*store, error) {
	d, err := db.Open(c.dir, c.options())
	if err != nil {
		return nil, err
	}
	return &store{db: d, rows: workload.NewRows(c.keys, c.value), config: c}, nil
}

// random returns a function of i whose results look random and are other ones
// for each call of random.
func (s *store) random() func(i int) uint64 {
	s.stream++
	base := workload.Mix(s.config.seed<<32 + s.stream)
	return func(i int) uint64 { return workload.Mix(base + uint64(i)*0x9e3779b97f4a7c15) }
}

// uniform returns a function that draws keys for n operations.
func (s *store) uniform() func(op int) int {
	x := s.random()
	return func(op int) int { return workload.Below(x(op), s.rows.Keys) }
}

// skewed returns one that draws keys by Zipf's law.
func (s *store) skewed() func(op int) int {
	if s.zipf == nil {
		s.zipf = workload.NewZipf(s.rows.Keys, 0.99)
	}
	z, x := s.zipf, s.random()
	return func(op int) int { return workload.Below(workload.Mix(uint64(z.Rank(x(op)))+99), s.rows.Keys) }
}

// A worker is one of the goroutines of parallel, with room for what it writes and
// reads.
type worker struct {
	s               *store
	index           int // of this worker
	key, value, got []byte
	latency         workload.Histogram
}

// errEnough ends parallel without an error.
var errEnough = errors.New("enough")

// opsAtOnce is how many operations a worker takes at once.
const opsAtOnce = 64

// parallel calls f for each of n operations, in about that order, by as many
// goroutines as are to write. It returns the latencies that they recorded.
func (s *store) parallel(n int, f func(w *worker, op int) error) (*workload.Histogram, error) {
	var (
		next  atomic.Int64
		all   sync.WaitGroup
		fail  error
		once  sync.Once
		total workload.Histogram
		mu    sync.Mutex
	)
	for index := range s.config.writers {
		all.Go(func() {
			w := &worker{s: s, index: index}
			defer func() {
				mu.Lock()
				total.Add(&w.latency)
				mu.Unlock()
			}()
			for {
				end := int(next.Add(opsAtOnce))
				if end-opsAtOnce >= n {
					return
				}
				for op := end - opsAtOnce; op < min(end, n); op++ {
					if err := f(w, op); err != nil {
						once.Do(func() { fail = err })
						next.Store(int64(n))
						return
					}
				}
			}
		})
	}
	all.Wait()
	if errors.Is(fail, errEnough) {
		fail = nil
	}
	return &total, fail
}

// set writes a new value under key i.
func (w *worker) set(i int) error {
	took, err := w.put(i)
	w.latency.Record(took)
	return err
}

// put is set, but for the record of how long it took.
func (w *worker) put(i int) (time.Duration, error) {
	w.key = workload.AppendKey(w.key[:0], i)
	w.value = w.s.rows.AppendValue(w.value[:0], i, w.s.version.Add(1))
	start := time.Now()
	err := w.s.db.Set(w.key, w.value)
	took := time.Since(start)
	if err == nil {
		w.s.rows.NoteSet(i)
	}
	return took, err
}

func (w *worker) delete(i int) error {
	w.key = workload.AppendKey(w.key[:0], i)
	start := time.Now()
	err := w.s.db.Delete(w.key)
	w.latency.Record(time.Since(start))
	if err == nil {
		w.s.rows.NoteDelete(i)
	}
	return err
}

// get reads key i and checks what comes.
func (w *worker) get(i int) (err error) {
	w.key = workload.AppendKey(w.key[:0], i)
	w.got, err = w.s.db.GetTo(w.got[:0], w.key)
	switch {
	case errors.Is(err, db.ErrNotFound) && !w.s.rows.Has(i):
		return nil
	case err != nil:
		return fmt.Errorf("key %d: %w", i, err)
	case !w.s.rows.Has(i):
		return fmt.Errorf("key %d is there and was deleted", i)
	}
	return w.s.rows.Check(i, w.got, &w.value)
}

// fill sets every key once, in random order.
func (s *store) fill() (*workload.Histogram, error) {
	return s.parallel(s.rows.Keys, (*worker).setOp)
}

func (w *worker) setOp(op int) error { return w.set(op) }

// fullScan reads all rows in order, checks their number, and returns how long
// that took.
func (s *store) fullScan() (time.Duration, error) {
	start := time.Now()
	it := s.db.Scan(nil, nil)
	defer it.Close()
	rows := 0
	for it.Next() {
		rows++
	}
	if err := it.Err(); err != nil {
		return 0, err
	}
	if want := s.rows.Count(); rows != want {
		return 0, fmt.Errorf("a scan gave %d rows, %d are there", rows, want)
	}
	return time.Since(start), nil
}
