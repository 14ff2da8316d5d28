package db_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
)

// A call is one operation on one key, and what it answered.
type call struct {
	kind     string // get, set, delete, swap
	key      int
	old, new string // absent is ""
	found    string // what get or a failed swap answered
	swapped  bool
}

// registers is a set of keys that each hold a value or none.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(call).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(call), output.(call)
		switch in.kind {
		case "set":
			return true, in.new
		case "delete":
			return true, ""
		case "swap":
			if out.swapped {
				return state == in.old, in.new
			}
			return state != in.old && state == out.found, state
		}
		return state == out.found, state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, output) },
}

// TestLinearizable lets goroutines read and write few keys at once, and looks
// for an order of the calls that explains all answers.
func TestLinearizable(t *testing.T) {
	const goroutines, calls, keys, rounds = 6, 150, 3, 10
	d := open(t, t.TempDir(), db.Options{Durability: db.DurabilityNone}.Tiny())
	start := time.Now()
	for round := range rounds {
		for key := range keys {
			require.NoError(t, d.Delete(linearKey(key)))
		}
		var (
			mu      sync.Mutex
			history []porcupine.Operation
			wait    sync.WaitGroup
		)
		for g := range goroutines {
			r := rand.New(rand.NewPCG(rand.Uint64(), uint64(round)))
			wait.Go(func() {
				for i := range calls {
					in := call{key: r.IntN(keys), new: fmt.Sprintf("%d.%d.%d", round, g, i)}
					in.kind = []string{"get", "get", "set", "delete", "swap", "swap"}[r.IntN(6)]
					if in.kind == "swap" {
						if value, err := d.Get(linearKey(in.key)); err == nil && r.IntN(4) > 0 {
							in.old = string(value)
						}
					}
					op := porcupine.Operation{ClientId: g, Input: in, Call: int64(time.Since(start))}
					out, err := in.run(d)
					op.Output, op.Return = out, int64(time.Since(start))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					history = append(history, op)
					mu.Unlock()
				}
			})
		}
		wait.Wait()
		result := porcupine.CheckOperationsTimeout(registers, history, 20*time.Second)
		require.Equal(t, porcupine.Ok, result)
		crashtest.ReportCount(t, 1, "histories")
	}
}

func linearKey(i int) []byte { return fmt.Appendf(nil, "key %d", i) }

// run makes the call and returns its answer.
func (c call) run(d *db.DB) (call, error) {
	out := c
	switch c.kind {
	case "set":
		return out, d.Set(linearKey(c.key), []byte(c.new))
	case "delete":
		return out, d.Delete(linearKey(c.key))
	case "swap":
		var old []byte
		if c.old != "" {
			old = []byte(c.old)
		}
		swapped, current, err := d.CompareAndSwap(linearKey(c.key), old, []byte(c.new))
		out.swapped, out.found = swapped, string(current)
		return out, err
	}
	value, err := d.Get(linearKey(c.key))
	if errors.Is(err, db.ErrNotFound) {
		err = nil
	}
	out.found = string(value)
	return out, err
}
