package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"armarium/daemon/plugin"
)

func inspectCommand() *cobra.Command {
	var src string
	var params, urls []string
	c := &cobra.Command{
		Use:   "inspect FILE.xml|FILE.jar [--param KEY=VALUE]... [--url URL]...",
		Short: "Show what a plugin does",
		Long: `Loads a definition, or all of an archive, and shows its parameters, what this software cannot do of it,
and warnings. With --param it makes the archival unit of these parameters and shows its identity, name,
start pages and crawl rules; with --url, whether the unit includes a URL. Signatures are not judged here:
see armarium plugin verify.`,
		Example: `  armarium plugin inspect org/example/ExamplePlugin.xml --src .
  armarium plugin inspect ExamplePlugin.jar --param base_url=http://www.example.com/ --param year=2020 \
      --url http://www.example.com/2020/a.html`,
		Args: args(1, 1, "one definition or archive"),
		RunE: func(cmd *cobra.Command, a []string) error {
			defs, err := readDefinitions(cmd, a[0], src)
			if err != nil {
				return err
			}
			values := map[string]string{}
			for _, p := range params {
				k, v, ok := strings.Cut(p, "=")
				if !ok {
					return usagef("--param %q: want KEY=VALUE", p)
				}
				values[k] = v
			}
			w := cmd.OutOrStdout()
			for _, d := range defs {
				describe(w, d)
				if len(params) == 0 {
					continue
				}
				au, err := d.Bind(values)
				if err != nil {
					return err
				}
				describeAU(w, au, urls)
			}
			if len(urls) > 0 && len(params) == 0 {
				return usagef("--url needs the parameters of a unit: add --param")
			}
			return nil
		},
	}
	c.Flags().StringVar(&src, "src", "", "root directory of the plugin sources, for ancestors (default: found from the definition's id)")
	c.Flags().StringArrayVar(&params, "param", nil, "parameter of an archival unit, KEY=VALUE; repeat")
	c.Flags().StringArrayVar(&urls, "url", nil, "URL to test against the unit; repeat")
	return c
}

func readDefinitions(cmd *cobra.Command, file, src string) ([]*plugin.Definition, error) {
	b, err := readFile(cmd, file)
	if err != nil {
		return nil, err
	}
	if !isDefinition(file) {
		j, err := plugin.PeekJar(b, plugin.LoadOptions{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, f := range j.Failures {
			fmt.Fprintln(cmd.ErrOrStderr(), "not loaded:", f)
		}
		if len(j.Definitions) == 0 {
			return nil, fmt.Errorf("%s: no plugin in it loads", file)
		}
		return j.Definitions, nil
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	root := filepath.Dir(abs)
	if src != "" {
		if root, err = filepath.Abs(src); err != nil {
			return nil, err
		}
	} else if i := strings.Index(string(b), "<string>plugin_identifier</string>"); i >= 0 {
		// The id says how deep below the root the file lies, if it lies where it should.
		rest := string(b[i+len("<string>plugin_identifier</string>"):])
		_, rest, _ = strings.Cut(rest, "<string>")
		id, _, _ := strings.Cut(rest, "</string>")
		if up, ok := strings.CutSuffix(abs, filepath.FromSlash(strings.ReplaceAll(strings.TrimSpace(id), ".", "/"))+".xml"); ok {
			root = filepath.Clean(up)
		}
	}
	rel, err := filepath.Rel(root, abs)
	if err != nil || strings.HasPrefix(rel, "..") {
		return nil, usagef("%s does not lie below --src %s", file, root)
	}
	id := strings.TrimSuffix(strings.ReplaceAll(filepath.ToSlash(rel), "/", "."), ".xml")
	d, err := plugin.ParseDefinition(id, b, func(id string) ([]byte, error) {
		return os.ReadFile(filepath.Join(root, filepath.FromSlash(strings.ReplaceAll(id, ".", "/"))+".xml"))
	})
	if err != nil {
		return nil, err
	}
	return []*plugin.Definition{d}, nil
}

func describeAU(w io.Writer, au *plugin.AU, urls []string) {
	fmt.Fprintf(w, "unit          %s\n  name        %s\n", au.ID(), au.Name())
	lines := func(what string, l []string) {
		for _, s := range l {
			fmt.Fprintf(w, "  %-11s %s\n", what, s)
		}
	}
	lines("start", au.StartURLs())
	lines("permission", au.PermissionURLs())
	lines("stem", au.Stems())
	for _, r := range au.Rules() {
		rng := ""
		if r.Range != "" {
			rng = ", group 1 in " + r.Range
		}
		fmt.Fprintf(w, "  %-11s %d %s%s\n", "rule", r.Action, r.Pattern, rng)
	}
	rate := au.FetchRate()
	if rate.Events == 0 {
		fmt.Fprintf(w, "  %-11s unlimited\n", "rate")
	} else {
		fmt.Fprintf(w, "  %-11s %d in %v\n", "rate", rate.Events, rate.Per)
	}
	fmt.Fprintf(w, "  %-11s every %v, pages to depth %d again\n", "crawl", au.CrawlInterval(), au.RefetchDepth())
	lines("warning", au.Warnings())
	for _, u := range urls {
		fmt.Fprintf(w, "  %-11s %s\n", au.Match(u), u)
	}
}
