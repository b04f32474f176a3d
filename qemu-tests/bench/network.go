package main

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"armarium/daemon/lockss"
	"armarium/qemu-tests/world"
)

// network is a small preservation network of processes of this machine.
type network struct {
	plan   world.Plan
	dir    string
	daemon string
	office *world.Office
	remove func() error // takes the address away
	nodes  map[int]*world.Process
}

// parameters that a network may publish; none of them exists for tests only. What a node
// waits for politely is short, and nothing starts by itself.
func parameters(p world.Plan, nodes int) map[string]string {
	var peers []string
	for i := range nodes {
		peers = append(peers, p.Identity(i+1))
	}
	return map[string]string{
		"org.lockss.id.initialV3PeerList":             strings.Join(peers, ";"),
		"org.lockss.plugin.registries":                registryURL(p),
		"org.lockss.plugin.keystore.location":         fmt.Sprintf("http://%s:%d/network.pem", world.Address, p.OfficePort),
		"org.lockss.crawler.starterEnabled":           "false",
		"org.lockss.poll.v3.quorum":                   "2",
		"org.lockss.poll.v3.voteRequestDelay":         "0",
		"org.lockss.poll.v3.repairFromCachePercent":   "100%",
		"org.lockss.poll.v3.timeBetweenInvitations":   "10s",
		"org.lockss.poll.pollStarterInitialDelay":     "1d",
		"org.lockss.scomm.minPeerRetryInterval":       "1s",
		"org.lockss.scomm.retryDelay":                 "1s",
		"org.lockss.repository.diskSpace.warn.freeMB": "1",
	}
}

func registryURL(p world.Plan) string {
	return fmt.Sprintf("http://%s:%d/plugins/index.html", world.Address, p.RegistryPort)
}

// startNetwork starts what the nodes of a network have in common.
func (b *bench) startNetwork(name string, nodes int, more map[string]string) (_ *network, err error) {
	n := &network{nodes: map[int]*world.Process{}}
	defer func() {
		if err != nil {
			n.stop()
		}
	}()
	if n.daemon, err = b.product("armariumd", "all"); err != nil {
		return nil, err
	}
	if n.dir, err = b.scratch(name); err != nil {
		return nil, err
	}
	if n.remove, err = world.SetAddress(); err != nil {
		return nil, err
	}
	if n.plan, err = world.FreePlan("bench", nodes); err != nil {
		return nil, err
	}
	jar, trust, err := world.SignedPlugin("unlimited")
	if err != nil {
		return nil, err
	}
	if n.office, err = world.StartOffice(n.plan.OfficePort, n.plan.RegistryPort); err != nil {
		return nil, err
	}
	params := parameters(n.plan, nodes)
	maps.Copy(params, more)
	now := time.Now()
	n.office.Put("/lockss.xml", world.PropertyFile(params), now)
	n.office.Put("/network.pem", trust, now)
	n.office.Put("/plugins/index.html", world.RegistryPage("Bench plugins", "Documentation.jar"), now)
	n.office.Put("/plugins/Documentation.jar", jar, now)
	return n, nil
}

// home is the directory of node i.
func (n *network) home(i int) string { return filepath.Join(n.dir, fmt.Sprintf("node%d", i)) }

// start starts node i and waits until it is well.
func (n *network) start(ctx context.Context, i int, each func(string)) (*world.Process, error) {
	if err := os.MkdirAll(n.home(i), 0o755); err != nil {
		return nil, err
	}
	p, err := n.plan.StartProcess(i, n.daemon, n.home(i), each)
	if err != nil {
		return nil, err
	}
	n.nodes[i] = p
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return p, p.Healthy(ctx)
}

// stop ends everything.
func (n *network) stop() {
	for _, p := range n.nodes {
		p.Kill() // nothing is wanted of them any more
	}
	if n.office != nil {
		n.office.Stop()
	}
	if n.remove != nil {
		n.remove()
	}
}

// unitParams are those of the archival unit of the world's publisher.
func (n *network) unitParams(section string) map[string]string {
	return map[string]string{"base_url": fmt.Sprintf("http://%s:%d/docs/", world.Address, n.plan.PublisherPort), "directory": section}
}

// unit is its id.
func (n *network) unit(section string) lockss.AUID {
	return lockss.NewAUID(world.PluginID, n.unitParams(section))
}

// path of a service for the unit.
func path(id lockss.AUID, service string) string {
	return "/api/v1/aus/" + url.PathEscape(string(id)) + service
}

// ended waits for a row of one of the node's histories, "crawls" or "polls", that is about
// the unit, over, and not in known.
func ended(ctx context.Context, m world.Member, table string, id lockss.AUID, known map[string]bool, look func(world.Row)) (world.Row, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, err := m.Table(ctx, table+"?limit=100")
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if r.Text("au") != string(id) || known[r.Text("started")] {
				continue
			}
			if running, _ := r["running"].(bool); running {
				look(r)
				continue
			}
			known[r.Text("started")] = true
			return r, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: waiting for one of the %s: %w", m.Name, table, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// span is the time between the start and the end of a row.
func span(r world.Row) (time.Duration, error) {
	from, err := time.Parse(time.RFC3339, r.Text("started"))
	if err != nil {
		return 0, err
	}
	to, err := time.Parse(time.RFC3339, r.Text("ended"))
	if err != nil {
		return 0, err
	}
	return to.Sub(from), nil
}
