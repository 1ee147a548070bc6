// What the shells need in order to ask us: each script calls `kubeplumb __complete -- WORDS`, which answers with
// lines VALUE<tab>DESCRIPTION, and ":files" where file names are wanted. Pure.

export const SHELLS = ["bash", "zsh", "fish"] as const;

export type Shell = (typeof SHELLS)[number];

const BASH = `# kubeplumb completion for bash; to load it: source <(kubeplumb completion bash)
_kubeplumb() {
  local line
  local program="\${COMP_WORDS[0]/#\\~\\//$HOME/}"
  local current="\${COMP_WORDS[COMP_CWORD]#[\\"\\']}"
  local IFS=$'\\n'
  # --name=: bash counts the "=" as a word
  if [ "$current" = "=" ]; then current=""; fi
  COMPREPLY=()
  for line in $("$program" __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD-1}" "$current" 2>/dev/null); do
    if [ "$line" = ":files" ]; then
      COMPREPLY+=($(compgen -f -- "$current"))
      compopt -o filenames 2>/dev/null
    else
      COMPREPLY+=("\${line%%$'\\t'*}")
    fi
  done
}
complete -F _kubeplumb kubeplumb
`;

const ZSH = `#compdef kubeplumb
# kubeplumb completion for zsh; to load it: source <(kubeplumb completion zsh)
_kubeplumb() {
  local line
  local program="\${\${(Q)words[1]}/#\\~\\//$HOME/}"
  local -a described
  for line in "\${(@f)$("$program" __complete -- "\${(@Q)words[2,CURRENT-1]}" "\${(Q)PREFIX}" 2>/dev/null)}"; do
    if [[ "$line" == ":files" ]]; then
      [[ "$PREFIX" == --*=* ]] && compset -P "*="
      _files
    elif [[ "$line" == *$'\\t'* ]]; then
      described+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}")
    elif [[ -n "$line" ]]; then
      described+=("\${line//:/\\\\:}")
    fi
  done
  (( \${#described} )) && _describe -V kubeplumb described
}
if [[ "\${funcstack[1]}" == "_kubeplumb" ]]; then
  _kubeplumb "$@"
else
  compdef _kubeplumb kubeplumb
fi
`;

const FISH = `# kubeplumb completion for fish; to load it: kubeplumb completion fish | source
function __kubeplumb_complete
    set -l words (commandline -opc)
    set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
    set -l current (commandline -ct | string trim --left --chars '\\'"' | string unescape)
    for line in ($program __complete -- $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = ":files"
            set -l flag (string match -r '^--[^=]+=' -- "$current")
            for path in (__fish_complete_path (string replace -- "$flag" "" "$current"))
                echo "$flag$path"
            end
        else
            echo $line
        end
    end
end
complete -c kubeplumb -f -a '(__kubeplumb_complete)'
`;

/** The script of a shell, ready to be sourced. */
export function completionScript(shell: Shell): string {
  return { bash: BASH, zsh: ZSH, fish: FISH }[shell];
}
