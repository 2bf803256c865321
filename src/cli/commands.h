/* cli/commands.h: the subcommands; each has its file. */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

/* argv[0] is the subcommand's name. Return the process's exit status. */
int command_run(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_image(int argc, char **argv);
int command_control(int argc, char **argv);

#endif
