package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func auCommand(o *nodeOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "au [UNIT]",
		Short: "List archival units, show one, add one",
		Long: `Without an argument lists the units of the node; with one shows that unit. A unit is named by its id, its
name, or a part of its name that no other unit has; --json shows the ids.`,
		Example: `  armarium node au
  armarium node au "Volume 7"
  armarium node au add "Journal of Examples Volume 8"`,
		Args: args(0, 1, "at most one unit"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if len(a) == 0 {
				return o.show(cmd, "aus")
			}
			c, err := o.client(cmd)
			if err != nil {
				return err
			}
			id, _, err := c.findAU(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			b, err := c.do(cmd.Context(), http.MethodGet, auPath(id), nil)
			if err != nil {
				return err
			}
			return o.print(cmd, b)
		},
	}
	c.AddCommand(auAddCommand(o))
	return c
}

func auAddCommand(o *nodeOptions) *cobra.Command {
	var pluginID string
	var params []string
	c := &cobra.Command{
		Use:   "add TITLE | add --plugin ID --param KEY=VALUE...",
		Short: "Add an archival unit to the node",
		Long: `Adds a unit by its name in the title list of the network (armarium node titles), or by its plugin and
parameters. The node collects it at its next opportunity.`,
		Example: `  armarium node au add "Journal of Examples Volume 8"
  armarium node au add --plugin org.example.ExamplePlugin --param base_url=http://www.example.com/ --param year=2020`,
		Args: args(0, 1, "one title"),
		RunE: func(cmd *cobra.Command, a []string) error {
			var body any
			switch {
			case len(a) == 1 && pluginID == "" && len(params) == 0:
			case len(a) == 0 && pluginID != "":
				values := map[string]string{}
				for _, p := range params {
					k, v, ok := strings.Cut(p, "=")
					if !ok {
						return usagef("--param %q: want KEY=VALUE", p)
					}
					values[k] = v
				}
				body = map[string]any{"plugin": pluginID, "params": values}
			default:
				return usagef("name either a title, or --plugin with --param")
			}
			c, err := o.client(cmd)
			if err != nil {
				return err
			}
			if len(a) == 1 {
				key, err := c.findTitle(cmd.Context(), a[0])
				if err != nil {
					return err
				}
				body = map[string]string{"title": key}
			}
			b, err := c.do(cmd.Context(), http.MethodPost, "aus", body)
			if err != nil {
				return err
			}
			return o.print(cmd, b)
		},
	}
	c.Flags().StringVar(&pluginID, "plugin", "", "plugin id")
	c.Flags().StringArrayVar(&params, "param", nil, "parameter, KEY=VALUE; repeat")
	return c
}

// findTitle finds the key of a title of the network's list by its name or key.
func (c *client) findTitle(ctx context.Context, what string) (string, error) {
	b, err := c.do(ctx, http.MethodGet, "titles?limit=10000", nil)
	if err != nil {
		return "", err
	}
	t, err := parseTable(b)
	if err != nil {
		return "", err
	}
	for _, r := range t.Rows {
		if key := r.text("key", "name"); key == what || r.text("name", "title") == what {
			return key, nil
		}
	}
	return "", fmt.Errorf("the network's list has no title %q; see: armarium node titles", what)
}
