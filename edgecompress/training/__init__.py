"""What training adds: the loop, distillation, and the recipes that find ranks or condition weights."""
