package world

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// FreePlan is a plan for so many nodes whose ports nobody uses at the moment, so that
// several worlds fit on one machine.
func FreePlan(group string, nodes int) (Plan, error) {
	per := 3*nodes + 3
	for range 100 {
		// Below the ports that the system gives to outgoing connections.
		first := 20000 + rand.IntN(12000-per)
		if !allFree(first, per) {
			continue
		}
		return Plan{Group: group, User: "admin", Password: "password-of-" + group, LCAP: first, UI: first + nodes, Audit: first + 2*nodes,
			PublisherPort: first + 3*nodes, OfficePort: first + 3*nodes + 1, RegistryPort: first + 3*nodes + 2}, nil
	}
	return Plan{}, errors.New("no free ports between 20000 and 32000")
}

func allFree(first, n int) bool {
	for p := first; p < first+n; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", p))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// PID is the daemon's process number, 0 when it does not run.
func (x *Process) PID() int {
	if x.cmd == nil {
		return 0
	}
	return x.cmd.Process.Pid
}
