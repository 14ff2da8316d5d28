package tree

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// A linearOp is one operation on one key; absent is the value "-".
type linearOp struct {
	kind     string // get, set, delete, cas
	key      int
	old, new string
}

type linearResult struct {
	swapped bool
	value   string
}

const absentValue = "-"

// linearModel is a register per key.
var linearModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(linearOp).key
			byKey[k] = append(byKey[k], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return absentValue },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(string), input.(linearOp), output.(linearResult)
		switch in.kind {
		case "get":
			return out.value == s, s
		case "set":
			return true, in.new
		case "delete":
			return true, absentValue
		default:
			if s == in.old {
				return out.swapped, in.new
			}
			return !out.swapped && out.value == s, s
		}
	},
}

func orNil(v string) []byte {
	if v == absentValue {
		return nil
	}
	return []byte(v)
}

func orAbsent(v []byte) string {
	if v == nil {
		return absentValue
	}
	return string(v)
}

func (op linearOp) do(tr *Tree, key []byte) (linearResult, error) {
	switch op.kind {
	case "set":
		return linearResult{}, tr.Set(key, []byte(op.new))
	case "delete":
		return linearResult{}, tr.Delete(key)
	case "cas":
		swapped, current, err := tr.CompareAndSwap(key, orNil(op.old), orNil(op.new))
		return linearResult{swapped, orAbsent(current)}, err
	}
	v, err := tr.GetTo([]byte{}, key)
	if errors.Is(err, ErrNotFound) {
		return linearResult{value: absentValue}, nil
	}
	return linearResult{value: string(v)}, err
}

// Operations of several clients on a few keys, amid splits, evictions and large
// values, have a sequential order that explains them.
func TestLinearizability(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range 8 {
		tr, err := Open(tinyOnDisk(vfs.NewMem()))
		require.NoError(t, err)
		var mu sync.Mutex
		var history []porcupine.Operation
		var wg sync.WaitGroup
		start := time.Now()
		for client := range 4 {
			rng := rand.New(rand.NewPCG(seed+uint64(round), uint64(client)))
			wg.Go(func() {
				for i := range 300 {
					op := drawLinearOp(rng, client, i)
					call := time.Since(start).Nanoseconds()
					out, err := op.do(tr, fmt.Appendf(nil, "%dk", op.key*300))
					if err != nil {
						t.Errorf("%v", err)
						return
					}
					mu.Lock()
					history = append(history, porcupine.Operation{ClientId: client, Input: op, Output: out, Call: call, Return: time.Since(start).Nanoseconds()})
					mu.Unlock()
					noise := fmt.Appendf(nil, "%d", rng.IntN(2000))
					if err := tr.Set(noise, value("noise", rng.IntN(100))); err != nil {
						t.Errorf("%v", err)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(linearModel, history, 20*time.Second))
		crashtest.ReportCount(t, 1, "histories")
		require.NoError(t, tr.Check())
		require.NoError(t, tr.Close())
	}
}

func drawLinearOp(rng *rand.Rand, client, i int) linearOp {
	op := linearOp{key: rng.IntN(4), new: fmt.Sprintf("%d/%d", client, i%3)}
	if rng.IntN(10) == 0 {
		op.new = string(value(op.new, 300))
	}
	switch rng.IntN(6) {
	case 0, 1:
		op.kind = "set"
	case 2:
		op.kind = "delete"
	case 3:
		op.kind, op.old = "cas", fmt.Sprintf("%d/%d", rng.IntN(4), rng.IntN(3))
		if rng.IntN(3) == 0 {
			op.old = absentValue
		}
	default:
		op.kind = "get"
	}
	return op
}
